#include "fleet/credentials.h"

/*
 * IssueCredentials: the one method that gives somebody a way into a tenant. The answer holds no secret, so it may be kept for an idempotency key; the
 * audit says which certificate was given out, and by which name it lets in.
 */

#include <stokehold/control.pb-c.h>
#include <time.h>

#include "control/method.h"
#include "rpc/protobuf.h"

static void answer(struct operation *op, const struct fleet_credentials *made) {
        Stokehold__Control__V1__IssueCredentialsResponse response =
                STOKEHOLD__CONTROL__V1__ISSUE_CREDENTIALS_RESPONSE__INIT;
        time_t t = (time_t)made->not_after;
        char not_after[32] = "";
        struct tm tm;

        if (gmtime_r(&t, &tm))
                (void)strftime(not_after, sizeof(not_after), "%Y-%m-%dT%H:%M:%SZ", &tm);
        response.certificate = made->certificate;
        response.server_authority = made->server_authority;
        response.client_name = made->name;
        response.serial = made->serial;
        response.not_after = not_after;
        response.shortened = made->is_shortened;
        operation_finish(op, protobuf_pack(&response.base));
}

void method_issue_credentials(struct grpc_call *call, struct bytes data) {
        cleanup(fleet_credentials_done) struct fleet_credentials made = {};
        Stokehold__Control__V1__IssueCredentialsRequest *request;
        cleanup(error_done) struct error why = {};
        struct fleet_issue issue;
        struct operation *op;
        int r;

        request = method_enter(call, data, &stokehold__control__v1__issue_credentials_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        op = method_begin(call, request->idempotency_key, data);
        if (!op)
                return;
        operation_audit_about(op, request->name, NULL, "issue credentials of tenant \"%.63s\"", request->name);
        issue = (struct fleet_issue){.tenant = request->name, .request = request->request, .days = request->days};
        r = fleet_issue_credentials(method_fleet(call), &issue, &made, &why);
        if (r < 0) {
                operation_fail(op, method_code(r), "%s", error_text(&why));
                return;
        }
        operation_audit(op, "issue credentials of tenant \"%.63s\": certificate %s for %s", request->name, made.serial,
                made.name);
        answer(op, &made);
}
