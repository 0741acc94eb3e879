#include "fleet/credentials.h"

#include <string.h>
#include <time.h>

#include "fleet/credential_name.h"
#include "fleet/definition_file.h"
#include "fleet/private_file.h"
#include "fleet/state.h"
#include "rpc/authority.h"
#include "rpc/certificate.h"

#define SOON_SECONDS (30 * 86400)

void fleet_credentials_done(struct fleet_credentials *credentials) {
        free(credentials->certificate);
        free(credentials->server_authority);
        free(credentials->name);
        free(credentials->serial);
        *credentials = (struct fleet_credentials){};
}

static struct bytes bytes_in(const struct buf *b) {
        return bytes_of(b->data, b->size);
}

static int text_of(struct buf *b, char **ret) {
        int r = buf_append(b, "", 1);

        if (r >= 0)
                *ret = (char *)steal(b->data);
        return r;
}

static int load(const struct settings_tls *tls, struct authority **ret, struct error *reterr) {
        cleanup(buf_done) struct buf certificate = {};
        cleanup(key_done) struct buf key = {};
        int r;

        r = text_file_read(tls->authority.certificate, &certificate, reterr);
        if (r < 0)
                return error_prefix(reterr, "%s", tls->authority.certificate);
        r = private_file_read(tls->authority.key, &key, reterr);
        if (r < 0)
                return error_prefix(reterr, "%s", tls->authority.key);
        r = authority_load(bytes_in(&certificate), bytes_in(&key), ret, reterr);
        return r < 0 ? error_prefix(reterr, "%s", tls->authority.certificate) : 0;
}

/* What leads to the server's certificate: as the settings say, or else the one among the certificates at hand that has signed it. Nothing, if it is none of
 * them. */
static int find_server_authority(const struct settings_tls *tls, struct buf *ret, struct error *reterr) {
        const char *const files[] = {tls->authority.certificate, tls->client_ca, tls->certificate};
        cleanup(buf_done) struct buf server = {};
        int r;

        if (tls->server_ca) {
                r = text_file_read(tls->server_ca, ret, reterr);
                return r < 0 ? error_prefix(reterr, "%s", tls->server_ca) : 0;
        }
        if (!tls->certificate || text_file_read(tls->certificate, &server, NULL) < 0)
                return 0;
        for (size_t i = 0; i < n_elements(files) && ret->size == 0; i++) {
                cleanup(buf_done) struct buf anchors = {};

                if (files[i] && text_file_read(files[i], &anchors, NULL) >= 0)
                        (void)certificate_find_anchor(bytes_in(&server), bytes_in(&anchors), ret);
        }
        return 0;
}

static int sign(const struct settings_tls *tls, const struct fleet_issue *issue, const char *name,
        struct fleet_credentials *ret, struct error *reterr) {
        const struct certificate_wish wish = {
                .use = CERTIFICATE_CLIENT,
                .common_name = issue->tenant,
                .names = &name,
                .n_names = 1,
                .days = issue->days ? issue->days : tls->authority.days,
        };
        cleanup(certificate_issued_done) struct certificate_issued issued = {};
        cleanup(authority_freep) struct authority *authority = NULL;
        cleanup(buf_done) struct buf certificate = {}, server = {};
        int r;

        r = load(tls, &authority, reterr);
        if (r >= 0)
                r = find_server_authority(tls, &server, reterr);
        if (r < 0) {
                (void)error_prefix(reterr, "tls.authority");
                return -EBUSY;
        }
        r = authority_issue(authority, bytes_of_string(issue->request), &wish, &certificate, &issued, reterr);
        if (r == -EBADMSG)
                return -EINVAL;
        if (r >= 0)
                r = text_of(&certificate, &ret->certificate);
        if (r >= 0)
                r = text_of(&server, &ret->server_authority);
        ret->serial = steal(issued.serial);
        ret->not_after = issued.not_after;
        ret->is_shortened = issued.is_shortened;
        return r;
}

int fleet_issue_credentials(
        struct fleet *fleet, const struct fleet_issue *issue, struct fleet_credentials *ret, struct error *reterr) {
        cleanup(fleet_credentials_done) struct fleet_credentials made = {};
        const struct settings_tls *tls = &fleet->config.settings->tls;
        const struct registry_record *record;
        cleanup(freep) char *uri = NULL;
        struct assignment *a;
        int r;

        a = fleet_find_assignment(fleet, issue->tenant);
        record = a && !a->gone ? a->record : NULL;
        if (!record)
                return error_set(reterr, -ENOENT, "no such tenant: %.80s", issue->tenant);
        if (record->phase == REGISTRY_DELETING || a->want_delete)
                return error_set(reterr, -EBUSY, "tenant %s is being deleted", issue->tenant);
        if (issue->days > CERTIFICATE_DAYS_MAX)
                return error_set(reterr, -EINVAL, "days must be at most %d", CERTIFICATE_DAYS_MAX);
        if (!tls->authority.certificate)
                return error_set(reterr, -EBUSY,
                        "this daemon has no authority to issue certificates with: tls.authority in stokehold.yaml (`stokectl authority create` makes one)");
        r = credential_name(issue->tenant, record->created, &uri);
        if (r < 0)
                return error_set(reterr, -EBUSY, "it is not known when tenant %s was made", issue->tenant);
        if (asprintf(&made.name, "URI:%s", uri) < 0)
                return -ENOMEM;
        r = sign(tls, issue, made.name, &made, reterr);
        if (r < 0)
                return r;
        *ret = made;
        made = (struct fleet_credentials){};
        return 0;
}

int credentials_can_issue(const struct settings *settings, struct error *reterr) {
        cleanup(authority_freep) struct authority *authority = NULL;
        int r;

        if (!settings->tls.authority.certificate)
                return 0;
        r = load(&settings->tls, &authority, reterr);
        return r < 0 ? error_prefix(reterr, "tls.authority: no certificates can be issued") : 0;
}

void credentials_problems(
        const struct settings *settings, void (*visit)(void *userdata, const char *line), void *userdata) {
        cleanup(authority_freep) struct authority *authority = NULL;
        cleanup(error_done) struct error why = {};
        cleanup(freep) char *line = NULL;
        int64_t left;

        if (!settings->tls.authority.certificate)
                return;
        if (load(&settings->tls, &authority, &why) < 0) {
                check(asprintf(&line, "tls.authority: no certificates can be issued: %s", error_text(&why)) > 0);
                visit(userdata, line);
                return;
        }
        left = authority_not_after(authority) - time(NULL);
        if (left >= SOON_SECONDS)
                return;
        check(asprintf(&line, "tls.authority: %s expires in %lld days", settings->tls.authority.certificate,
                      (long long)left / 86400) > 0);
        visit(userdata, line);
}
