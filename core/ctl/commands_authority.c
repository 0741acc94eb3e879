/*
 * stokectl authority create, renew, revoke: an authority for platforms that have none, in files beside the daemon. No daemon is asked: it reads
 * the files when they change. The authority signs the daemon's own certificate, and what `tenant credentials` issues; what it has revoked is in a
 * list beside it.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/yaml.h"
#include "ctl/ctl.h"
#include "ctl/files.h"
#include "ctl/output.h"
#include "rpc/authority.h"
#include "rpc/certificate.h"

#define DEFAULT_DIRECTORY "/etc/stokehold/tls"
#define DAEMON_GROUP "_stokehold"
#define AUTHORITY_DAYS 3650
#define SERVER_DAYS 365
#define FILE_MAX 65536
#define LIST_MAX (16 * 1024 * 1024)
#define PORT "2379"

struct own {
        struct ctl *ctl;
        const char *directory;
        struct authority *authority; /* owned */
        struct buf certificate, key, list;
        struct buf server_certificate, server_key;
        struct certificate_issued issued;
        char **names; /* owned: "DNS:…", "IP:…" */
        size_t n_names;
};

static void own_done(struct own *own) {
        authority_free(own->authority);
        buf_done(&own->certificate);
        key_done(&own->key);
        buf_done(&own->list);
        buf_done(&own->server_certificate);
        key_done(&own->server_key);
        certificate_issued_done(&own->issued);
        for (size_t i = 0; i < own->n_names; i++)
                free(own->names[i]);
        free(own->names);
}

static struct bytes bytes_in(const struct buf *b) {
        return bytes_of(b->data, b->size);
}

static void own_init(struct own *own, struct ctl *ctl) {
        *own = (struct own){.ctl = ctl, .directory = ctl->directory ? ctl->directory : DEFAULT_DIRECTORY};
}

static int read_one(const struct own *own, const char *name, size_t max, struct buf *ret) {
        cleanup(freep) char *path = ctl_path(own->directory, name);

        return ctl_file_read(path, max, ret);
}

static int load(struct own *own) {
        cleanup(error_done) struct error why = {};
        int r;

        r = read_one(own, "ca.crt", FILE_MAX, &own->certificate);
        if (r == CTL_OK)
                r = read_one(own, "ca.key", FILE_MAX, &own->key);
        if (r != CTL_OK)
                return r;
        if (authority_load(bytes_in(&own->certificate), bytes_in(&own->key), &own->authority, &why) < 0)
                return ctl_fail(CTL_FAILED, "%s/ca.crt: %s", own->directory, error_text(&why));
        return CTL_OK;
}

/* ---- the server's certificate */

static bool is_address(const char *host) {
        unsigned char address[16];

        return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static void add_name(struct own *own, const char *kind, const char *name) {
        char *text;

        check(asprintf(&text, "%s:%s", kind, name) >= 0);
        for (size_t i = 0; i < own->n_names; i++)
                if (strcmp(own->names[i], text) == 0) {
                        free(text);
                        return;
                }
        own->names = realloc(own->names, (own->n_names + 1) * sizeof(*own->names));
        check(own->names);
        own->names[own->n_names++] = text;
}

static int issue_server(struct own *own, const char *common_name) {
        struct certificate_wish wish = {
                .use = CERTIFICATE_SERVER,
                .common_name = strlen(common_name) <= 64 ? common_name : "stokehold",
                .names = (const char *const *)own->names,
                .n_names = own->n_names,
                .days = own->ctl->days ? own->ctl->days : SERVER_DAYS,
        };
        cleanup(error_done) struct error why = {};
        cleanup(buf_done) struct buf request = {};

        if (key_make(&own->server_key, &why) < 0 ||
                certificate_request_make(bytes_in(&own->server_key), wish.common_name, &request, &why) < 0 ||
                authority_issue(
                        own->authority, bytes_in(&request), &wish, &own->server_certificate, &own->issued, &why) < 0)
                return ctl_fail(CTL_USAGE, "%s", error_text(&why));
        return CTL_OK;
}

/* What was asked for; and this host itself, for whoever looks from there. */
static void take_hosts(struct own *own, const char *fallback) {
        static const char *const local[][2] = {{"DNS", "localhost"}, {"IP", "127.0.0.1"}, {"IP", "::1"}};

        for (size_t i = 0; i < own->ctl->n_hosts; i++)
                add_name(own, is_address(own->ctl->hosts[i]) ? "IP" : "DNS", own->ctl->hosts[i]);
        if (own->ctl->n_hosts == 0)
                add_name(own, "DNS", fallback);
        for (size_t i = 0; i < n_elements(local); i++)
                add_name(own, local[i][0], local[i][1]);
}

/* ---- files */

/* As root, for the daemon of a package: its group may read the keys. Everybody else's are their own. */
static void for_daemon(struct ctl_files *files, struct ctl_file *file, size_t n) {
        const struct group *group = geteuid() == 0 ? getgrnam(DAEMON_GROUP) : NULL;

        files->files = file;
        files->n_files = n;
        files->directory_mode = 0700;
        if (!group)
                return;
        files->has_group = true;
        files->group = group->gr_gid;
        files->directory_mode = 0750;
        for (size_t i = 0; i < n; i++)
                if (file[i].mode == 0600)
                        file[i].mode = 0640;
}

static void print_until(int64_t t) {
        time_t seconds = (time_t)t;
        char text[32] = "?";
        struct tm tm;

        if (gmtime_r(&seconds, &tm))
                (void)strftime(text, sizeof(text), "%Y-%m-%d", &tm);
        fputs(text, stdout);
}

static void print_names(const struct own *own) {
        for (size_t i = 0; i < own->n_names; i++) {
                fputs(i ? ", " : "", stdout);
                output_text(strchr(own->names[i], ':') + 1);
        }
}

static void write_path(struct yaml_writer *w, const char *key, const char *directory, const char *name) {
        cleanup(freep) char *path = ctl_path(directory, name);

        yaml_write_key(w, key);
        yaml_write_string(w, path);
}

static void print_settings(const struct own *own, const char *host) {
        cleanup(freep) char *real = realpath(own->directory, NULL), *url = NULL;
        const char *directory = real ? real : own->directory;
        cleanup(yaml_writer_freep) struct yaml_writer *w = NULL;
        cleanup(buf_done) struct buf text = {};
        bool six = strchr(host, ':');

        check(yaml_writer_new(&text, &w) >= 0);
        check(asprintf(&url, "https://%s%s%s:" PORT, six ? "[" : "", host, six ? "]" : "") >= 0);
        yaml_write_mapping(w);
        yaml_write_key(w, "tls");
        yaml_write_mapping(w);
        yaml_write_key(w, "address");
        yaml_write_string(w, six ? "[::]:" PORT : "0.0.0.0:" PORT);
        write_path(w, "certificate", directory, "server.crt");
        write_path(w, "key", directory, "server.key");
        yaml_write_key(w, "advertise");
        yaml_write_sequence(w);
        yaml_write_string(w, url);
        yaml_write_end(w);
        yaml_write_key(w, "authority");
        yaml_write_mapping(w);
        write_path(w, "certificate", directory, "ca.crt");
        write_path(w, "key", directory, "ca.key");
        write_path(w, "revocations", directory, "ca.crl");
        yaml_write_end(w);
        yaml_write_end(w);
        yaml_write_end(w);
        check(yaml_writer_finish(w) >= 0 && buf_append(&text, "", 1) >= 0);
        puts("# In stokehold.yaml:");
        output_document((const char *)text.data);
}

/* ---- commands */

static int run_create(struct ctl *ctl) {
        cleanup(own_done) struct own own;
        cleanup(error_done) struct error why = {};
        struct ctl_files files = {};
        char hostname[256] = "";
        const char *present, *host;
        int r;

        own_init(&own, ctl);
        if (gethostname(hostname, sizeof(hostname) - 1) < 0 || !hostname[0])
                strcpy(hostname, "localhost");
        host = ctl->n_hosts ? ctl->hosts[0] : hostname;
        take_hosts(&own, hostname);
        if (authority_make("Stokehold authority", AUTHORITY_DAYS, &own.certificate, &own.key, &why) < 0 ||
                authority_load(bytes_in(&own.certificate), bytes_in(&own.key), &own.authority, &why) < 0 ||
                authority_revoke(own.authority, (struct bytes){}, NULL, &own.list, &why) < 0)
                return ctl_fail(CTL_FAILED, "%s", error_text(&why));
        r = issue_server(&own, host);
        if (r != CTL_OK)
                return r;

        struct ctl_file all[] = {{"ca.key", bytes_in(&own.key), 0600}, {"ca.crt", bytes_in(&own.certificate), 0644},
                {"ca.crl", bytes_in(&own.list), 0644}, {"server.key", bytes_in(&own.server_key), 0600},
                {"server.crt", bytes_in(&own.server_certificate), 0644}};
        files.directory = own.directory;
        for_daemon(&files, all, n_elements(all));
        /* With another authority every certificate that this one has issued would be void: that is never meant. */
        present = ctl_files_present(&files);
        if (present)
                return ctl_fail(CTL_CONFLICT, "%s/%s is there already: move it away if it is not used any more",
                        own.directory, present);
        r = ctl_files_write(&files);
        if (r != CTL_OK)
                return r;
        printf("# Written to %s: ca.crt, ca.key and ca.crl, until ", own.directory);
        print_until(authority_not_after(own.authority));
        fputs("; server.crt and server.key, until ", stdout);
        print_until(own.issued.not_after);
        fputs(",\n# for ", stdout);
        print_names(&own);
        puts(". ca.key lets its holder into every tenant.");
        print_settings(&own, host);
        return CTL_OK;
}

static int run_renew(struct ctl *ctl) {
        cleanup(certificate_info_done) struct certificate_info old = {};
        cleanup(buf_done) struct buf certificate = {};
        cleanup(error_done) struct error why = {};
        cleanup(own_done) struct own own;
        struct ctl_files files = {};
        const char *host;
        int r;

        own_init(&own, ctl);
        r = load(&own);
        if (r != CTL_OK)
                return r;
        if (ctl->n_hosts)
                take_hosts(&own, NULL);
        else {
                r = read_one(&own, "server.crt", FILE_MAX, &certificate);
                if (r != CTL_OK)
                        return r;
                if (certificate_read(bytes_in(&certificate), &old, &why) < 0)
                        return ctl_fail(CTL_FAILED, "%s/server.crt: %s", own.directory, error_text(&why));
                for (size_t i = 0; i < old.n_names; i++)
                        add_name(&own, strncmp(old.names[i], "IP:", 3) == 0 ? "IP" : "DNS",
                                strchr(old.names[i], ':') + 1);
        }
        if (own.n_names == 0)
                return ctl_fail(CTL_USAGE, "%s/server.crt names no host; say --host", own.directory);
        host = strchr(own.names[0], ':') + 1;
        r = issue_server(&own, host);
        if (r != CTL_OK)
                return r;

        struct ctl_file all[] = {{"server.key", bytes_in(&own.server_key), 0600},
                {"server.crt", bytes_in(&own.server_certificate), 0644}};
        files.directory = own.directory;
        for_daemon(&files, all, n_elements(all));
        r = ctl_files_write(&files);
        if (r != CTL_OK)
                return r;
        printf("Written to %s: server.crt and server.key, until ", own.directory);
        print_until(own.issued.not_after);
        fputs(", for ", stdout);
        print_names(&own);
        puts(".\nThe daemon takes them up by itself.");
        return CTL_OK;
}

/* Of a certificate, which must be this authority's, or as it was written. */
static int find_serial(struct own *own, const char *word, char **ret) {
        cleanup(certificate_info_done) struct certificate_info info = {};
        cleanup(buf_done) struct buf certificate = {};
        cleanup(error_done) struct error why = {};
        int r;

        *ret = authority_serial(word);
        if (*ret)
                return CTL_OK;
        if (access(word, F_OK) < 0)
                return ctl_fail(CTL_USAGE, "'%s' is neither a serial number in hexadecimal nor a file", word);
        r = ctl_file_read(word, FILE_MAX, &certificate);
        if (r != CTL_OK)
                return r;
        if (certificate_read(bytes_in(&certificate), &info, &why) < 0 ||
                authority_verify(own->authority, bytes_in(&certificate), CERTIFICATE_CLIENT, &why) < 0)
                return ctl_fail(CTL_USAGE, "%s: no client certificate of this authority that is good: %s", word,
                        error_text(&why));
        *ret = steal(info.serial);
        return CTL_OK;
}

/* Until the end: two that revoke at once would each write a list without what the other has added. */
static int lock_directory(const char *directory, int *ret) {
        int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
                return ctl_fail(errno == ENOENT ? CTL_NOT_FOUND : CTL_FAILED, "%s: %s", directory, strerror(errno));
        if (flock(fd, LOCK_EX) < 0 && errno != ENOLCK && errno != EOPNOTSUPP) {
                int r = ctl_fail(CTL_FAILED, "%s: %s", directory, strerror(errno));

                close(fd);
                return r;
        }
        *ret = fd;
        return CTL_OK;
}

static int revoke_locked(struct ctl *ctl) {
        cleanup(buf_done) struct buf list = {};
        cleanup(error_done) struct error why = {};
        cleanup(freep) char *serial = NULL, *path = NULL;
        cleanup(own_done) struct own own;
        struct ctl_files files = {};
        int r;

        own_init(&own, ctl);
        r = load(&own);
        if (r == CTL_OK)
                r = find_serial(&own, ctl->args[0], &serial);
        if (r != CTL_OK)
                return r;
        path = ctl_path(own.directory, "ca.crl");
        if (access(path, F_OK) == 0 || errno != ENOENT)
                r = ctl_file_read(path, LIST_MAX, &own.list);
        if (r != CTL_OK)
                return r;
        r = authority_revoke(own.authority, bytes_in(&own.list), serial, &list, &why);
        if (r == -EEXIST)
                return ctl_fail(CTL_CONFLICT, "%s: %s", path, error_text(&why));
        if (r < 0)
                return ctl_fail(CTL_FAILED, "%s: %s", path, error_text(&why));

        struct ctl_file all[] = {{"ca.crl", bytes_in(&list), 0644}};
        files.directory = own.directory;
        for_daemon(&files, all, n_elements(all));
        r = ctl_files_write(&files);
        if (r != CTL_OK)
                return r;
        printf("Certificate %s is on the revocation list %s.\n"
               "Daemons that read it refuse the certificate from now on, and close the connections that were made with it.\n",
                serial, path);
        return CTL_OK;
}

static int run_revoke(struct ctl *ctl) {
        int lock = -EBADF, r;

        r = lock_directory(ctl->directory ? ctl->directory : DEFAULT_DIRECTORY, &lock);
        if (r != CTL_OK)
                return r;
        r = revoke_locked(ctl);
        close(lock);
        return r;
}

const struct ctl_command ctl_commands_authority[] = {
        {"authority", "create", "", "Make an authority and a server certificate, for a daemon's TLS port",
                "For platforms that have no authority of their own. Writes ca.crt, ca.key, ca.crl, server.crt and server.key\n"
                "to --directory (" DEFAULT_DIRECTORY
                " otherwise), and prints the section tls of stokehold.yaml. --host: each\n"
                "name and address by which clients reach the daemon; this host's name otherwise. --days counts for the\n"
                "server's certificate; the authority is good for ten years. Replaces nothing. Asks no daemon.\n",
                0, 0, OPTION_DIRECTORY | OPTION_HOST | OPTION_DAYS, run_create},
        {"authority", "renew", "", "Make a new server certificate with the same authority",
                "With the names of the last one, or with --host. The daemon takes it up without dropping a connection.\n"
                "Asks no daemon.\n",
                0, 0, OPTION_DIRECTORY | OPTION_HOST | OPTION_DAYS, run_renew},
        {"authority", "revoke", "SERIAL", "Put a client certificate on the revocation list",
                "SERIAL as 'tenant credentials' and 'openssl x509 -serial' print it, or a file with the certificate.\n"
                "Changes ca.crl; where several daemons have the same authority, each needs it. Asks no daemon.\n",
                1, 1, OPTION_DIRECTORY, run_revoke},
        {},
};
