#include "fleet/fleet.h"

/*
 * --check: what a start or a reload would say of the definitions, without touching anything. Runs before there is a loop.
 */

#include <string.h>

#include "base/log.h"
#include "fleet/credentials.h"
#include "fleet/definition.h"
#include "fleet/endpoint.h"
#include "fleet/secret.h"

static const char *on_driver(void *userdata, const char *name, struct error *reterr) {
        const struct plugin *plugin = plugin_find(userdata, name, reterr);

        return plugin ? plugin->driver->name : NULL;
}

int fleet_check_definitions(const struct settings *settings, FILE *out) {
        struct plugin_table_config plugins_config = {
                .directory = settings->plugins_dir,
                .root_only = settings->root_only,
                .experimental = (const char *const *)settings->experimental,
                .n_experimental = settings->n_experimental,
        };
        cleanup(plugin_table_freep) struct plugin_table *plugins = NULL;
        cleanup(secret_source_unrefp) struct secret_source *secrets = NULL;
        cleanup(definitions_freep) struct definitions *set = NULL;
        struct definitions_config config = {
                .directory = settings->definitions_dir,
                .state_dir = settings->state_dir,
                .driver = on_driver,
        };
        struct definition_problems problems = {};
        cleanup(error_done) struct error why = {};
        enum log_level level = log_get_level();
        int r;

        /* Only what is wrong is of interest here. */
        log_set_level(LOG_LEVEL_WARNING);
        r = plugin_table_new(&plugins_config, &plugins);
        if (r >= 0) {
                plugin_table_scan(plugins);
                r = secret_source_new(settings->secrets_dir, getenv("CREDENTIALS_DIRECTORY"), &secrets);
        }
        config.secrets = secrets;
        config.userdata = plugins;
        if (r >= 0)
                r = definitions_load(&config, NULL, &set, &problems);
        log_set_level(level);
        if (r < 0) {
                fprintf(out, "definitions: %s\n", strerror(-r));
                return EXIT_FAILURE;
        }
        for (size_t i = 0; i < problems.n_items; i++)
                fprintf(out, "%s\n", problems.items[i].text);
        r = problems.n_items ? EXIT_FAILURE : EXIT_SUCCESS;
        secret_source_set(secrets, set);
        if (!endpoint_check(settings, secrets, set, out))
                r = EXIT_FAILURE;
        if (credentials_can_issue(settings, &why) < 0) {
                fprintf(out, "%s\n", error_text(&why));
                r = EXIT_FAILURE;
        }
        definition_problems_done(&problems);
        return r;
}
