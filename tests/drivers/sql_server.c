/* SPDX-License-Identifier: Apache-2.0 */
/* What the drivers of SQL servers share: names within a server's limits, quoting, endpoints, settings, secrets, derived passwords. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../plugins/sql/hash.h"
#include "../../plugins/sql/server.h"

static unsigned n_tests, n_failed;
static char reason[256];
static struct stoke_call call = {.size = sizeof(call), .reason = reason, .reason_size = sizeof(reason)};

static void expect(bool good, const char *what) {
        n_failed += !good;
        printf("%sok %u - %s\n", good ? "" : "not ", ++n_tests, what);
}

static bool is_hex(const uint8_t *data, const char *hex) {
        char text[2 * SQL_SHA256 + 1];

        for (unsigned i = 0; i < SQL_SHA256; i++)
                snprintf(text + 2 * i, 3, "%02x", data[i]);
        return strcmp(text, hex) == 0;
}

/* FIPS 180-4's examples, RFC 4231's cases 1, 2 and 6. */
static void test_hash(void) {
        uint8_t hash[SQL_SHA256], key[131];
        char *million = malloc(1000000);

        sql_sha256("", 0, hash);
        expect(is_hex(hash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"), "SHA-256 of nothing");
        sql_sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hash);
        expect(is_hex(hash, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"), "SHA-256, two blocks");
        sql_sha256(memset(million, 'a', 1000000), 1000000, hash);
        expect(is_hex(hash, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"), "SHA-256, a million");
        free(million);
        sql_hmac_sha256(memset(key, 0x0b, 20), 20, "Hi There", 8, hash);
        expect(is_hex(hash, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"), "HMAC, short key");
        sql_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, hash);
        expect(is_hex(hash, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"), "HMAC, a word as key");
        sql_hmac_sha256(
                memset(key, 0xaa, 131), 131, "Test Using Larger Than Block-Size Key - Hash Key First", 54, hash);
        expect(is_hex(hash, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"), "HMAC, long key");
}

static void test_names(void) {
        struct stoke_keyspace keyspace = {.name = "short", .incarnation = {0xab, [15] = 0x01}}, other;
        char table[SQL_IDENTIFIER_MAX + 1], second[SQL_IDENTIFIER_MAX + 1], account[SQL_UUID_DASHED], *quoted;

        sql_server_table(&keyspace, "", 63, table);
        expect(strcmp(table, "short-ab000000000000000000000000000001") == 0, "a short name is readable");
        sql_server_table(&keyspace, "+", 63, table);
        expect(strcmp(table, "short-ab000000000000000000000000000001+") == 0, "a suffix stands behind it");
        keyspace.name = "a-name-of-63-bytes-is-the-longest-that-a-keyspace-may-have-0000";
        other = keyspace;
        other.name = "a-name-of-63-bytes-is-the-longest-that-a-keyspace-may-have-0001";
        for (size_t max = 63; max <= 64; max++) {
                sql_server_table(&keyspace, "", max, table);
                sql_server_table(&other, "", max, second);
                expect(strlen(table) == max && strlen(second) == max && strcmp(table, second) != 0 &&
                                strstr(table, "-ab000000000000000000000000000001") && strchr(table, '~'),
                        "long names are cut, and told apart by a hash");
                sql_server_table(&keyspace, "+", max, second);
                expect(strlen(second) == max && second[max - 1] == '+', "a cut name has room for its suffix");
        }
        keyspace.name = "exactly-thirty-bytes-as-a-name";
        sql_server_table(&keyspace, "", 63, table);
        expect(strlen(keyspace.name) == 30 && strlen(table) == 63 && !strchr(table, '~'), "what fits is not cut");

        sql_server_account(keyspace.incarnation, 63, account);
        expect(strcmp(account, "ab000000-0000-0000-0000-000000000001") == 0, "an account is named as Kamaji names it");
        sql_server_account(keyspace.incarnation, 32, account);
        expect(strcmp(account, "ab000000000000000000000000000001") == 0, "or shorter, where a server takes no more");

        quoted = sql_quote_identifier("a\"b`\"; DROP TABLE x; --", '"');
        expect(quoted && strcmp(quoted, "\"a\"\"b`\"\"; DROP TABLE x; --\"") == 0, "quotes are doubled");
        free(quoted);
        quoted = sql_quote_identifier("`", '`');
        expect(quoted && strcmp(quoted, "````") == 0, "so are backquotes");
        free(quoted);
}

static void test_settings(void) {
        static const char *const good[] = {"db.example:5433", "[fd00::1]:5432", "db", "[::1]"};
        static const char *const bad[] = {
                "", ":1", "host:", "host:x", "host:0", "host:65536", "fd00::1", "[::1", "[::1]x", "h:1 2"};
        static const char *const known[] = {"database", "credentials", NULL};
        struct stoke_setting settings[] = {{"database", "d"}, {"credentials", "Dedicated"}};
        struct stoke_datastore d = {.size = sizeof(d), .name = "d", .endpoints = good, .n_endpoints = 4};
        struct sql_endpoint *endpoints = NULL;
        bool dedicated;
        size_t n = 0;

        expect(sql_endpoints_parse(&d, "X", "5432", &call, &endpoints, &n) == 0 && n == 4 &&
                        strcmp(endpoints[0].host, "db.example") == 0 && strcmp(endpoints[0].port, "5433") == 0 &&
                        strcmp(endpoints[1].host, "fd00::1") == 0 && strcmp(endpoints[2].port, "5432") == 0 &&
                        strcmp(endpoints[3].host, "::1") == 0,
                "endpoints are taken apart");
        sql_endpoints_free(endpoints, n);
        d.n_endpoints = 1;
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
                d.endpoints = &bad[i];
                expect(sql_endpoints_parse(&d, "X", "5432", &call, &endpoints, &n) == -EINVAL, "no endpoint");
        }
        d.n_endpoints = 0;
        expect(sql_endpoints_parse(&d, "X", "1", &call, &endpoints, &n) == -EINVAL && strstr(reason, "X needs"),
                "none at all");

        d.settings = settings;
        d.n_settings = 2;
        expect(sql_settings_check(&d, "X", known, &call) == 0, "settings that are known");
        expect(sql_setting_dedicated(&d, &dedicated, &call) == 0 && dedicated, "dedicated credentials");
        settings[1].value = "shared";
        expect(sql_setting_dedicated(&d, &dedicated, &call) == 0 && !dedicated, "shared credentials");
        settings[1].value = "no";
        expect(sql_setting_dedicated(&d, &dedicated, &call) == -EINVAL, "neither");
        settings[1].name = "databas";
        expect(sql_settings_check(&d, "X", known, &call) == -EINVAL && strstr(reason, "\"databas\""),
                "a setting that was misspelt");
        expect(sql_server_check_format(1, 1, &call) == 0 && sql_server_check_format(7, 1, &call) == 0 &&
                        sql_server_check_format(7, 2, &call) == -EPROTONOSUPPORT && strstr(reason, "format 7"),
                "a format is read if its writer says that this version can");
}

static int on_secret(void *userdata, enum stoke_secret which,
        void (*visit)(void *visitor, const void *data, size_t size), void *visitor, char *text, size_t text_size) {
        (void)userdata;
        if (which == STOKE_SECRET_CLIENT_PRIVATE_KEY) {
                visit(visitor, "ke\0y", 4);
                return 0;
        }
        if (which == STOKE_SECRET_USERNAME) {
                snprintf(text, text_size, "it is locked away");
                return -ENOKEY;
        }
        return -ENOENT;
}

static void test_secrets(void) {
        struct stoke_host host = {.size = sizeof(host), .secret = on_secret}, none = {.size = sizeof(none)};
        char path[SQL_SECRET_PATH], text[8], password[SQL_PASSWORD_TEXT], second[SQL_PASSWORD_TEXT];
        uint8_t incarnation[16] = {7};
        struct sql_secret secret;
        struct stat st;
        int fd, own;

        expect(sql_secret_read(&host, STOKE_SECRET_CA_CERTIFICATE, &secret, &call) == 0 && !secret.data, "no secret");
        expect(sql_secret_file(&secret, &fd, path, &call) == 0 && fd == -1 && !path[0], "and no file of it");
        expect(sql_secret_read(&host, STOKE_SECRET_USERNAME, &secret, &call) == -ENOKEY && strstr(reason, "locked"),
                "a secret that cannot be had says why");
        expect(sql_tenant_key(&none, &secret, &call) == -EINVAL, "no key, no derived password");
        expect(sql_tenant_key(&host, &secret, &call) == 0 && secret.size == 4 && memcmp(secret.data, "ke\0y", 4) == 0,
                "the client's key where there is no password");
        expect(sql_secret_file(&secret, &fd, path, &call) == 0 && fd >= 0 && fstat(fd, &st) == 0 &&
                        (st.st_mode & 0777) == 0600 && S_ISREG(st.st_mode),
                "a secret as a file that only we can read");
        own = open(path, O_RDONLY | O_CLOEXEC);
        expect(own >= 0 && read(own, text, sizeof(text)) == 4 && memcmp(text, "ke\0y", 4) == 0, "with its bytes");
        close(own);
        close(fd);
        /* HMAC-SHA256("ke\0y", "stokehold tenant credentials" 07 00…00), by another implementation. */
        sql_tenant_password(secret.data, secret.size, incarnation, password);
        expect(strcmp(password, "ko0JEzZkmp4VAjaa31DmynuvBM2Hh3NYlLrEx1QIwtc") == 0,
                "a derived password is what it was");
        incarnation[15] = 1;
        sql_tenant_password(secret.data, secret.size, incarnation, second);
        expect(strcmp(password, second) != 0 && strlen(second) == 43, "and another for another tenant");
        sql_secret_wipe(&secret);
        expect(!secret.data && secret.size == 0, "wiped");
}

int main(void) {
        test_hash();
        test_names();
        test_settings();
        test_secrets();
        call.deadline_ns = 0;
        expect(sql_remaining_ms(&call, 100) == 0, "a deadline that has passed");
        call.deadline_ns = UINT64_MAX;
        expect(sql_remaining_ms(&call, 100) == 100, "a deadline that is far");
        call.deadline_ns = sql_now_ns() + 1000000000000u;
        expect(sql_remaining_ms(&call, 2000000) > 900000, "one in between");
        printf("1..%u\n", n_tests);
        return n_failed != 0;
}
