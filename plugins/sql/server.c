/* SPDX-License-Identifier: Apache-2.0 */
/* What the drivers of SQL servers share: names, settings, endpoints, secrets. See server.h. */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hash.h"

int sql_server_check_format(int64_t current, int64_t min_reader, struct stoke_call *call) {
        if (min_reader <= SQL_SERVER_FORMAT)
                return 0;
        return sql_fail(call, -EPROTONOSUPPORT,
                "the datastore has format %lld, which needs a reader of format %lld; this one knows %d",
                (long long)current, (long long)min_reader, SQL_SERVER_FORMAT);
}

/* ---- names */

void sql_server_table(
        const struct stoke_keyspace *keyspace, const char *suffix, size_t max, char ret[SQL_IDENTIFIER_MAX + 1]) {
        size_t size = strlen(keyspace->name), rest = 1 + (SQL_UUID_TEXT - 1) + strlen(suffix);
        uint8_t hash[SQL_SHA256];
        char uuid[SQL_UUID_TEXT];

        if (max > SQL_IDENTIFIER_MAX)
                max = SQL_IDENTIFIER_MAX;
        sql_uuid_text(keyspace->incarnation, uuid);
        if (size + rest <= max) {
                snprintf(ret, SQL_IDENTIFIER_MAX + 1, "%s-%s%s", keyspace->name, uuid, suffix);
                return;
        }
        sql_sha256(keyspace->name, size, hash);
        snprintf(ret, SQL_IDENTIFIER_MAX + 1, "%.*s~%02x%02x%02x%02x-%s%s", (int)(max - rest - 9), keyspace->name,
                hash[0], hash[1], hash[2], hash[3], uuid, suffix);
}

void sql_server_account(const uint8_t incarnation[16], size_t max, char ret[SQL_UUID_DASHED]) {
        char uuid[SQL_UUID_TEXT];

        sql_uuid_text(incarnation, uuid);
        if (max >= SQL_UUID_DASHED - 1)
                snprintf(ret, SQL_UUID_DASHED, "%.8s-%.4s-%.4s-%.4s-%.12s", uuid, uuid + 8, uuid + 12, uuid + 16,
                        uuid + 20);
        else
                snprintf(ret, SQL_UUID_DASHED, "%s", uuid);
}

char *sql_quote_identifier(const char *text, char quote) {
        size_t n = 0, size = strlen(text);
        char *quoted;

        for (const char *p = text; *p; p++)
                n += *p == quote;
        quoted = malloc(size + n + 3);
        if (!quoted)
                return NULL;
        n = 0;
        quoted[n++] = quote;
        for (const char *p = text; *p; p++) {
                if (*p == quote)
                        quoted[n++] = quote;
                quoted[n++] = *p;
        }
        quoted[n++] = quote;
        quoted[n] = '\0';
        return quoted;
}

/* ---- settings and endpoints */

const char *sql_setting(const struct stoke_datastore *datastore, const char *name) {
        for (size_t i = 0; i < datastore->n_settings; i++)
                if (strcmp(datastore->settings[i].name, name) == 0)
                        return datastore->settings[i].value;
        return NULL;
}

int sql_settings_check(const struct stoke_datastore *datastore, const char *driver, const char *const *known,
        struct stoke_call *call) {
        for (size_t i = 0; i < datastore->n_settings; i++) {
                size_t k = 0;

                while (known[k] && strcmp(known[k], datastore->settings[i].name) != 0)
                        k++;
                if (!known[k])
                        return sql_fail(
                                call, -EINVAL, "%s knows no parameter \"%s\"", driver, datastore->settings[i].name);
        }
        return 0;
}

int sql_setting_dedicated(const struct stoke_datastore *datastore, bool *ret, struct stoke_call *call) {
        const char *value = sql_setting(datastore, "credentials");

        *ret = value && strcasecmp(value, "Dedicated") == 0;
        if (value && !*ret && strcasecmp(value, "Shared") != 0)
                return sql_fail(call, -EINVAL, "\"credentials\" is Shared or Dedicated");
        return 0;
}

static int parse_endpoint(const char *text, const char *port_default, struct sql_endpoint *ret) {
        const char *end, *port;
        char *rest;
        long n;

        if (text[0] == '[') {
                end = strchr(++text, ']');
                if (!end || (end[1] && end[1] != ':'))
                        return -EINVAL;
                port = end[1] ? end + 2 : port_default;
        } else {
                end = strrchr(text, ':');
                port = end ? end + 1 : port_default;
                if (end && memchr(text, ':', (size_t)(end - text)))
                        return -EINVAL; /* an IPv6 address without brackets */
                if (!end)
                        end = text + strlen(text);
        }
        n = strtol(port, &rest, 10);
        if (end == text || rest == port || *rest || n < 1 || n > 65535)
                return -EINVAL;
        ret->host = strndup(text, (size_t)(end - text));
        ret->port = strdup(port);
        return ret->host && ret->port ? 0 : -ENOMEM;
}

int sql_endpoints_parse(const struct stoke_datastore *datastore, const char *driver, const char *port_default,
        struct stoke_call *call, struct sql_endpoint **ret, size_t *ret_n) {
        struct sql_endpoint *endpoints;
        int r = 0;

        if (datastore->n_endpoints == 0)
                return sql_fail(call, -EINVAL, "%s needs at least one endpoint, \"host:port\"", driver);
        endpoints = calloc(datastore->n_endpoints, sizeof(*endpoints));
        if (!endpoints)
                return -ENOMEM;
        for (size_t i = 0; r == 0 && i < datastore->n_endpoints; i++) {
                r = parse_endpoint(datastore->endpoints[i], port_default, &endpoints[i]);
                if (r == -EINVAL)
                        (void)sql_fail(call, r, "\"%s\" is not an endpoint, \"host:port\"", datastore->endpoints[i]);
        }
        if (r < 0) {
                sql_endpoints_free(endpoints, datastore->n_endpoints);
                return r;
        }
        *ret = endpoints;
        *ret_n = datastore->n_endpoints;
        return 0;
}

void sql_endpoints_free(struct sql_endpoint *endpoints, size_t n) {
        for (size_t i = 0; endpoints && i < n; i++) {
                free(endpoints[i].host);
                free(endpoints[i].port);
        }
        free(endpoints);
}

/* ---- deadlines */

int sql_remaining_ms(const struct stoke_call *call, int most) {
        uint64_t now = sql_now_ns(), left;

        if (now >= call->deadline_ns)
                return 0;
        left = (call->deadline_ns - now - 1) / 1000000 + 1;
        return left > (uint64_t)most ? most : (int)left;
}

/* ---- secrets */

struct visit {
        struct sql_secret *secret;
        bool no_memory;
};

static void on_secret(void *visitor, const void *data, size_t size) {
        struct visit *visit = visitor;

        sql_secret_wipe(visit->secret);
        visit->secret->data = malloc(size + 1);
        if (!visit->secret->data) {
                visit->no_memory = true;
                return;
        }
        if (size)
                memcpy(visit->secret->data, data, size);
        visit->secret->data[size] = '\0';
        visit->secret->size = size;
}

int sql_secret_read(
        const struct stoke_host *host, enum stoke_secret which, struct sql_secret *ret, struct stoke_call *call) {
        struct visit visit = {.secret = ret};
        int r;

        *ret = (struct sql_secret){};
        if (!host->secret)
                return 0;
        r = host->secret(host->userdata, which, on_secret, &visit, call->reason, call->reason_size);
        if (r == -ENOENT) {
                if (call->reason && call->reason_size)
                        call->reason[0] = '\0';
                r = 0;
        }
        if (r == 0 && visit.no_memory)
                r = -ENOMEM;
        if (r < 0)
                sql_secret_wipe(ret);
        return r;
}

void sql_secret_wipe(struct sql_secret *secret) {
        if (secret->data) {
                explicit_bzero(secret->data, secret->size);
                free(secret->data);
        }
        *secret = (struct sql_secret){};
}

int sql_secret_file(
        const struct sql_secret *secret, int *ret_fd, char ret_path[SQL_SECRET_PATH], struct stoke_call *call) {
        size_t done = 0;
        int fd;

        *ret_fd = -1;
        ret_path[0] = '\0';
        if (!secret->data)
                return 0;
        fd = memfd_create("secret", MFD_CLOEXEC);
        if (fd < 0)
                return sql_fail(call, -errno, "cannot keep a secret in memory: %s", strerror(errno));
        /* A private key that others may read is refused by libraries that look. */
        if (fchmod(fd, 0600) < 0)
                goto fail;
        while (done < secret->size) {
                ssize_t n = write(fd, secret->data + done, secret->size - done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        goto fail;
                done += (size_t)n;
        }
        snprintf(ret_path, SQL_SECRET_PATH, "/proc/self/fd/%d", fd);
        *ret_fd = fd;
        return 0;
fail:
        (void)sql_fail(call, -EIO, "cannot keep a secret in memory: %s", strerror(errno));
        close(fd);
        return -EIO;
}

void sql_tenant_password(const void *key, size_t key_size, const uint8_t incarnation[16], char ret[SQL_PASSWORD_TEXT]) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        static const char label[] = "stokehold tenant credentials";
        uint8_t message[sizeof(label) - 1 + 16], mac[SQL_SHA256 + 1] = {0};
        size_t n = 0;

        memcpy(message, label, sizeof(label) - 1);
        memcpy(message + sizeof(label) - 1, incarnation, 16);
        sql_hmac_sha256(key, key_size, message, sizeof(message), mac);
        for (size_t bit = 0; n < SQL_PASSWORD_TEXT - 1; bit += 6) {
                unsigned two = (unsigned)mac[bit / 8] << 8 | mac[bit / 8 + 1];

                ret[n++] = digits[two >> (10 - bit % 8) & 63];
        }
        ret[n] = '\0';
        explicit_bzero(mac, sizeof(mac));
}

int sql_tenant_key(const struct stoke_host *host, struct sql_secret *ret, struct stoke_call *call) {
        static const enum stoke_secret from[] = {STOKE_SECRET_PASSWORD, STOKE_SECRET_CLIENT_PRIVATE_KEY};

        for (size_t i = 0; i < sizeof(from) / sizeof(from[0]); i++) {
                int r = sql_secret_read(host, from[i], ret, call);

                if (r < 0)
                        return r;
                if (ret->size > 0)
                        return 0;
                sql_secret_wipe(ret);
        }
        return sql_fail(call, -EINVAL,
                "dedicated credentials are derived from the datastore's own password or client key, and it has neither");
}

int sql_tenant_password_get(const struct stoke_host *host, const uint8_t incarnation[16], char ret[SQL_PASSWORD_TEXT],
        struct stoke_call *call) {
        struct sql_secret key;
        int r;

        r = sql_tenant_key(host, &key, call);
        if (r < 0)
                return r;
        sql_tenant_password(key.data, key.size, incarnation, ret);
        sql_secret_wipe(&key);
        return 0;
}
