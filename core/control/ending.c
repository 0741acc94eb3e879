#include "control/ending.h"

#include <stdarg.h>

#include "control/answer.h"
#include "control/method.h"
#include "rpc/protobuf.h"

struct ending *ending_new(struct grpc_call *call, struct operation *op, const char *name) {
        struct ending *e = new0(struct ending);

        e->op = op;
        e->fleet = method_fleet(call);
        e->name = xstrdup(name ? name : "");
        return e;
}

void ending_free(struct ending *e) {
        free(e->name);
        free(e);
}

void ending_finish_packed(struct ending *e, struct blob *packed) {
        operation_finish(e->op, packed);
        ending_free(e);
}

void ending_finish(struct ending *e, const void *message) {
        ending_finish_packed(e, protobuf_pack(message));
}

void ending_fail(struct ending *e, enum grpc_code code, const char *format, ...) {
        cleanup(freep) char *text = NULL;
        va_list args;

        va_start(args, format);
        check(vasprintf(&text, format, args) >= 0);
        va_end(args);
        operation_fail(e->op, code, "%s", text);
        ending_free(e);
}

bool ending_refused(struct ending *e, int result, const char *reason) {
        if (result >= 0)
                return false;
        ending_fail(e, method_code(result), "%s", reason);
        return true;
}

void ending_finish_unless_refused(struct ending *e, int result, const char *reason, const void *message) {
        if (!ending_refused(e, result, reason))
                ending_finish(e, message);
}

void ending_finish_with_tenant(struct ending *e, const void *message, Stokehold__Control__V1__Tenant **field) {
        struct arena arena;

        arena_init(&arena, 0);
        *field = answer_tenant(e->fleet, e->name, &arena);
        if (*field)
                ending_finish(e, message);
        else
                ending_fail(e, GRPC_NOT_FOUND, "tenant %s was deleted meanwhile", e->name);
        arena_done(&arena);
}
