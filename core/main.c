/*
 * stokehold: wires the rooms together. Options, the folders and the lock, the main loop with its signals, and the order of start and stop: nothing here
 * knows what a tenant is.
 */

#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/scrape.h"
#include "control/service.h"
#include "etcd/health.h"
#include "etcd/service.h"
#include "fleet/fleet.h"
#include "fleet/settings.h"
#include "fleet/uuid.h"

#define CONTROL_DRAIN_NS (2 * NSEC_PER_SEC)

struct daemon {
        struct settings_options options;
        struct settings *settings; /* owned */
        bool log_level_given;      /* on the command line, which a reload does not undo */
        uint8_t incarnation[16];
        int lock_fd;
        int tls_fd;        /* owned until the fleet has it: from systemd, listens already; -EBADF: none */
        struct loop *loop; /* owned, as the rest */
        struct fleet *fleet;
        struct control *control;
        struct scrape *scrape;    /* NULL: no metrics listener */
        struct loop_watch *watch; /* NULL: the definitions directory cannot be watched */
        unsigned n_stopping;      /* parts of the stop that are still under way */
        bool stopping;
};

static const char usage[] =
        "stokehold --root DIR | --config FILE [OPTION...]\n"
        "Serves each Kubernetes control plane an etcd of its own, from the datastores that are defined.\n"
        "\n"
        "  --root DIR         keep everything under DIR, for trials and tests; DIR/stokehold.yaml is read if it is there\n"
        "  --config FILE      the settings, for real use: /etc/stokehold/stokehold.yaml\n"
        "  --plugins DIR      where the drivers are, instead of what the settings say\n"
        "  --log-level LEVEL  error, warning, notice, info or debug\n"
        "  --check            read settings and definitions, print what is wrong with them, and exit: 1 if anything is\n"
        "  --version          print the version and exit\n"
        "  --help             print this and exit\n"
        "\n"
        "Signals: SIGHUP reads settings, plugins and definitions again; SIGTERM and SIGINT drain and stop.\n"
        "See also stokectl(1).\n";

/* ---- stopping */

static void on_part_stopped(void *userdata) {
        struct daemon *d = userdata;

        if (--d->n_stopping == 0)
                loop_stop(d->loop);
}

static void stop(struct daemon *d) {
        if (d->stopping)
                return;
        d->stopping = true;
        log_info("stopping");
        sd_notify(0, "STOPPING=1\nSTATUS=Draining");
        loop_watch_free(d->watch);
        d->watch = NULL;
        d->n_stopping = 2;
        control_close(d->control, CONTROL_DRAIN_NS, on_part_stopped, d);
        fleet_stop(d->fleet, on_part_stopped, d);
}

/* Passwords and keys are in memory for as long as there are sessions, copies of the client libraries included: wiping ours would not do. Without leave, the
 * kernel writes no dump of this process, pipes none to a collector, and shows nobody but root what is in it. */
static void allow_core_dumps(bool yes) {
        check(prctl(PR_SET_DUMPABLE, yes ? 1UL : 0UL, 0UL, 0UL, 0UL) == 0);
}

/* ---- reloading */

struct reload {
        struct daemon *daemon;
        fleet_reload_fn done; /* NULL: nobody waits */
        void *userdata;
        char *mistake; /* owned: what is wrong with the settings; NULL: nothing */
};

static void notify_ready(struct daemon *d) {
        struct fleet_summary summary;

        fleet_get_summary(d->fleet, &summary);
        sd_notifyf(0, "READY=1\nSTATUS=Serving %zu tenants on %zu datastores", summary.n_tenants, summary.n_datastores);
}

static void on_reloaded(void *userdata, const char *const *errors, size_t n_errors) {
        struct reload *reload = userdata;
        cleanup(freep) const char **all = xcalloc(n_errors + 1, sizeof(*all));
        size_t n = 0;

        if (reload->mistake)
                all[n++] = reload->mistake;
        for (size_t i = 0; i < n_errors; i++)
                all[n++] = errors[i];
        if (!reload->daemon->stopping)
                notify_ready(reload->daemon);
        if (reload->done)
                reload->done(reload->userdata, all, n);
        free(reload->mistake);
        free(reload);
}

/* What may change while the daemon runs is changed; the rest is told. */
static char *reload_settings(struct daemon *d) {
        cleanup(error_done) struct error err = {};
        cleanup(settings_freep) struct settings *settings = NULL;
        cleanup(freep) char *fixed = NULL;
        char *mistake = NULL;

        if (settings_load(&d->options, &settings, &err) < 0) {
                log_error("%s", error_text(&err));
                if (asprintf(&mistake, "%s", error_text(&err)) < 0)
                        check(false);
                return mistake;
        }
        fixed = settings_fixed_changes(d->settings, settings);
        if (fixed) {
                if (asprintf(&mistake, "%s: %s: takes effect when the daemon is started anew",
                            settings->file ? settings->file : "settings", fixed) < 0)
                        check(false);
                log_warning("%s", mistake);
        }
        if (settings->log_level != d->settings->log_level && !d->log_level_given)
                log_set_level(settings->log_level);
        settings_adopt(d->settings, settings);
        allow_core_dumps(d->settings->core_dumps);
        return mistake;
}

static void reload(void *userdata, bool enforce, fleet_reload_fn done, void *done_userdata) {
        struct daemon *d = userdata;
        struct reload *reload = new0(struct reload);
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
        reload->daemon = d;
        reload->done = done;
        reload->userdata = done_userdata;
        reload->mistake = reload_settings(d);
        control_reload(d->control);
        fleet_reload(d->fleet, enforce, on_reloaded, reload);
}

/* ---- events */

static void on_signal(void *userdata, int signo) {
        struct daemon *d = userdata;

        if (signo == SIGHUP) {
                if (!d->stopping)
                        reload(d, false, NULL, NULL);
                return;
        }
        stop(d);
}

static void on_definitions(void *userdata) {
        struct daemon *d = userdata;

        fleet_definitions_changed(d->fleet);
}

static void on_ready(void *userdata) {
        struct daemon *d = userdata;

        log_info("ready");
        notify_ready(d);
}

static int add_services(struct grpc_server *server) {
        return etcd_services_add(server);
}

/* ---- starting */

static int make_directory(const char *path, mode_t mode, struct error *reterr) {
        if (mkdir(path, mode) == 0) {
                if (chmod(path, mode) < 0) /* whatever the umask is */
                        return error_set(reterr, -errno, "%s: %m", path);
                return 0;
        }
        return errno == EEXIST ? 0 : error_set(reterr, -errno, "%s: %m", path);
}

/* Two daemons on one state would each hold half of what the other needs. The lock is of the open file, and goes with it. */
static int take_lock(struct daemon *d, struct error *reterr) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        cleanup(freep) char *path = NULL;

        if (asprintf(&path, "%s/daemon.lock", d->settings->state_dir) < 0)
                return -ENOMEM;
        d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (d->lock_fd < 0)
                return error_set(reterr, -errno, "%s: %m", path);
        if (fcntl(d->lock_fd, F_OFD_SETLK, &lock) < 0) {
                if (errno == EAGAIN || errno == EACCES)
                        return error_set(reterr, -EBUSY, "%s: another daemon is running on this state", path);
                return error_set(reterr, -errno, "%s: %m", path);
        }
        return 0;
}

static int make_directories(struct daemon *d, struct error *reterr) {
        const struct settings *s = d->settings;
        int r;

        r = make_directory(s->state_dir, 0700, reterr);
        if (r < 0)
                return r;
        r = make_directory(s->runtime_dir, 0755, reterr);
        if (r < 0)
                return r;
        /* With --config an absent directory is a mistake, which the reading tells. */
        return s->root ? make_directory(s->definitions_dir, 0700, reterr) : 0;
}

static int start(struct daemon *d, const sigset_t *signals, struct error *reterr) {
        struct fleet_config fleet = {
                .services = {.add = add_services,
                        .routes = etcd_http_routes,
                        .n_routes = etcd_n_http_routes,
                        .health = etcd_health,
                        .unavailable = etcd_unavailable},
                .on_ready = on_ready,
                .userdata = d,
                .version = STOKEHOLD_VERSION,
                .formats = {STOKE_FORMAT_OLDEST, STOKE_FORMAT_CURRENT},
        };
        struct control_config control = {.version = STOKEHOLD_VERSION, .reload = reload, .userdata = d};
        cleanup(error_done) struct error err = {};
        int r;

        r = make_directories(d, reterr);
        if (r < 0)
                return r;
        r = take_lock(d, reterr);
        if (r < 0)
                return r;
        r = loop_new("main", &d->loop);
        if (r < 0)
                return error_set(reterr, r, "main loop: %s", strerror(-r));

        fleet.loop = control.loop = d->loop;
        fleet.settings = d->settings;
        fleet.tls_fd = d->tls_fd;
        memcpy(fleet.daemon, d->incarnation, 16);
        memcpy(control.daemon, d->incarnation, 16);
        r = fleet_new(&fleet, &d->fleet, reterr);
        if (r < 0)
                return r;
        d->tls_fd = -EBADF;
        control.fleet = d->fleet;
        control.path = d->settings->control_socket;
        control.own_user = d->settings->root;
        r = control_new(&control, &d->control, reterr);
        if (r < 0)
                return r;
        if (d->settings->metrics_listen) {
                r = scrape_new(d->loop, d->fleet, d->settings->metrics_listen, &d->scrape, reterr);
                if (r < 0)
                        return r;
                log_info("metrics at %s", scrape_address(d->scrape));
        }
        r = loop_signals(d->loop, signals, on_signal, d);
        if (r < 0)
                return error_set(reterr, r, "signals: %s", strerror(-r));
        r = loop_watchdog(d->loop);
        if (r < 0)
                return error_set(reterr, r, "watchdog: %s", strerror(-r));
        r = loop_watch_directory(d->loop, d->settings->definitions_dir, on_definitions, d, &d->watch);
        if (r < 0)
                log_warning("%s: cannot be watched for changes: %s", d->settings->definitions_dir, strerror(-r));
        return fleet_start(d->fleet, reterr);
}

static void daemon_done(struct daemon *d) {
        scrape_free(d->scrape);
        control_free(d->control);
        fleet_free(d->fleet);
        loop_watch_free(d->watch);
        loop_free(d->loop);
        settings_free(d->settings);
        if (d->lock_fd >= 0)
                close(d->lock_fd);
}

static int run(struct daemon *d) {
        cleanup(error_done) struct error err = {};
        char incarnation[UUID_TEXT_SIZE];
        sigset_t signals;
        int r;

        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGHUP);
        check(sigprocmask(SIG_BLOCK, &signals, NULL) == 0);
        check(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
        umask(0077);

        uuid_make(d->incarnation);
        uuid_print(d->incarnation, incarnation);
        log_info("stokehold %s, daemon %s", STOKEHOLD_VERSION, incarnation);
        r = start(d, &signals, &err);
        if (r < 0) {
                log_error("%s", error_text(&err));
                return EXIT_FAILURE;
        }
        r = loop_run(d->loop);
        if (r < 0) {
                log_error("main loop: %s", strerror(-r));
                return EXIT_FAILURE;
        }
        log_info("stopped");
        return EXIT_SUCCESS;
}

/* Sockets that systemd listens on for us: one called "tls". Before anything else is opened, so that their numbers are theirs; what is not
 * known is closed. */
static void take_sockets(struct daemon *d) {
        char **names = NULL;
        int n = sd_listen_fds_with_names(true, &names);

        for (int i = 0; i < n; i++) {
                int fd = SD_LISTEN_FDS_START + i;

                if (strcmp(names[i], "tls") == 0 && d->tls_fd < 0 && sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) > 0)
                        d->tls_fd = fd;
                else {
                        log_warning(
                                "the socket \"%s\" that was passed is not used: what is wanted is one that listens, called \"tls\"",
                                names[i]);
                        close(fd);
                }
                free(names[i]);
        }
        if (n < 0)
                log_warning("the sockets that were passed cannot be used: %s", strerror(-n));
        free(names);
}

static int parse(struct daemon *d, int argc, char **argv, bool *ret_check, const char **ret_level) {
        enum { OPT_ROOT = 256, OPT_CONFIG, OPT_PLUGINS, OPT_LOG_LEVEL, OPT_CHECK, OPT_VERSION, OPT_HELP };
        static const struct option options[] = {
                {"root", required_argument, NULL, OPT_ROOT},
                {"config", required_argument, NULL, OPT_CONFIG},
                {"plugins", required_argument, NULL, OPT_PLUGINS},
                {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
                {"check", no_argument, NULL, OPT_CHECK},
                {"version", no_argument, NULL, OPT_VERSION},
                {"help", no_argument, NULL, OPT_HELP},
                {},
        };

        for (;;) {
                switch (getopt_long(argc, argv, "", options, NULL)) {
                case OPT_ROOT:
                        d->options.root = optarg;
                        break;
                case OPT_CONFIG:
                        d->options.config = optarg;
                        break;
                case OPT_PLUGINS:
                        d->options.plugins = optarg;
                        break;
                case OPT_LOG_LEVEL:
                        *ret_level = optarg;
                        break;
                case OPT_CHECK:
                        *ret_check = true;
                        break;
                case OPT_VERSION:
                        printf("stokehold %s\n", STOKEHOLD_VERSION);
                        exit(EXIT_SUCCESS);
                case OPT_HELP:
                        fputs(usage, stdout);
                        exit(EXIT_SUCCESS);
                case -1:
                        if (optind == argc && !d->options.root != !d->options.config)
                                return 0;
                        fputs(optind < argc ? "stokehold: takes options only\n"
                                            : "stokehold: one of --root and --config is needed\n",
                                stderr);
                        return -EINVAL;
                default:
                        fputs("Try stokehold --help\n", stderr);
                        return -EINVAL;
                }
        }
}

int main(int argc, char **argv) {
        struct daemon d = {.lock_fd = -EBADF, .tls_fd = -EBADF};
        cleanup(error_done) struct error err = {};
        const char *level_name = NULL;
        enum log_level level;
        bool only_check = false;
        int r;

        (void)mallopt(M_MMAP_THRESHOLD, MALLOC_MAPPED);
        (void)mallopt(M_TRIM_THRESHOLD, MALLOC_KEPT);
        (void)mallopt(M_ARENA_MAX, MALLOC_HEAPS);
        if (parse(&d, argc, argv, &only_check, &level_name) < 0)
                return 2;
        if (level_name && log_level_parse(level_name, &level) < 0) {
                fprintf(stderr, "stokehold: --log-level: one of error, warning, notice, info and debug\n");
                return 2;
        }
        log_open();
        if (!only_check)
                take_sockets(&d);
        if (settings_load(&d.options, &d.settings, &err) < 0) {
                fprintf(stderr, "stokehold: %s\n", error_text(&err));
                return EXIT_FAILURE;
        }
        allow_core_dumps(d.settings->core_dumps);
        d.log_level_given = level_name;
        log_set_level(level_name ? level : d.settings->log_level);

        r = only_check ? fleet_check_definitions(d.settings, stderr) : run(&d);
        daemon_done(&d);
        return r;
}
