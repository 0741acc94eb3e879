#include "rpc/reflection_alpha_descriptor.h"
#include "rpc/reflection_descriptor.h"
#include "rpc/protobuf.h"
#include "rpc/server.h"

/*
 * Server reflection, versions v1 and v1alpha, whose messages are the same: which services there are, and the files that describe
 * them. Files come from the descriptor sets given with the services and are found by walking them: it is seldom asked for. Runs on
 * the server's loop.
 *
 * ServerReflectionRequest { host = 1; file_by_filename = 3; file_containing_symbol = 4; file_containing_extension = 5;
 * all_extension_numbers_of_type = 6; list_services = 7 }, ServerReflectionResponse { valid_host = 1; original_request = 2;
 * file_descriptor_response = 4 { repeated bytes = 1 }; list_services_response = 6 { repeated service = 1 { name = 1 } };
 * error_response = 7 { error_code = 1; error_message = 2 } }.
 */

#define MAX_FILES 256
#define MAX_NESTING 32

struct file {
        struct bytes name, package, data;
};

struct files {
        struct file *files; /* owned */
        size_t n;
};

/* Fields of google.protobuf.FileDescriptorProto */
enum {
        FILE_NAME = 1,
        FILE_PACKAGE = 2,
        FILE_DEPENDENCY = 3,
        FILE_MESSAGE = 4,
        FILE_ENUM = 5,
        FILE_SERVICE = 6,
        FILE_EXTENSION = 7
};
/* of DescriptorProto; the rest have their name in 1 and their parts (values, methods) in 2 */
enum { MESSAGE_NAME = 1, MESSAGE_FIELD = 2, MESSAGE_NESTED = 3, MESSAGE_ENUM = 4, MESSAGE_ONEOF = 8 };

static int files_collect(struct grpc_server *s, struct files *f) {
        for (size_t i = 0; i < s->n_services; i++) {
                struct bytes set = s->services[i].descriptor;
                struct protobuf_field field, inner;

                while (protobuf_read_field(&set, &field) > 0) {
                        struct bytes in = field.bytes;
                        struct file file = {.data = field.bytes};
                        bool again = false;
                        struct file *files;

                        if (field.number != 1 || field.type != 2)
                                continue;
                        while (protobuf_read_field(&in, &inner) > 0) {
                                if (inner.type == 2 && inner.number == FILE_NAME)
                                        file.name = inner.bytes;
                                if (inner.type == 2 && inner.number == FILE_PACKAGE)
                                        file.package = inner.bytes;
                        }
                        for (size_t k = 0; k < f->n && !again; k++)
                                again = bytes_equal(f->files[k].name, file.name);
                        if (again || f->n == MAX_FILES)
                                continue;
                        files = reallocarray(f->files, f->n + 1, sizeof(*files));
                        if (!files)
                                return -ENOMEM;
                        f->files = files;
                        f->files[f->n++] = file;
                }
        }
        return 0;
}

/* If symbol begins with name and a dot (or is it), cuts that off. */
static bool step_into(struct bytes *symbol, struct bytes name) {
        if (!name.size)
                return true;
        if (symbol->size < name.size || memcmp(symbol->data, name.data, name.size) != 0)
                return false;
        if (symbol->size > name.size && symbol->data[name.size] != '.')
                return false;
        *symbol = bytes_of(
                symbol->data + min_of(name.size + 1, symbol->size), symbol->size - min_of(name.size + 1, symbol->size));
        return true;
}

static struct bytes name_of(struct bytes data) {
        struct protobuf_field field;

        while (protobuf_read_field(&data, &field) > 0)
                if (field.number == 1 && field.type == 2)
                        return field.bytes;
        return (struct bytes){};
}

/* Whether data (a message's, an enum's, a service's descriptor) is the symbol or contains it. */
static bool contains(struct bytes data, struct bytes symbol, bool is_message, unsigned depth) {
        struct bytes name = name_of(data);
        struct protobuf_field field;

        if (!name.size || depth > MAX_NESTING || !step_into(&symbol, name))
                return false;
        if (!symbol.size)
                return true;
        while (protobuf_read_field(&data, &field) > 0) {
                if (field.type != 2 || field.number == 1)
                        continue;
                if (is_message && (field.number == MESSAGE_NESTED || field.number == MESSAGE_ENUM)) {
                        if (contains(field.bytes, symbol, field.number == MESSAGE_NESTED, depth + 1))
                                return true;
                } else if (field.number == 2 || (is_message && field.number == MESSAGE_ONEOF)) {
                        if (bytes_equal(name_of(field.bytes), symbol))
                                return true;
                }
        }
        return false;
}

static bool file_has_symbol(const struct file *f, struct bytes symbol) {
        struct bytes in = f->data;
        struct protobuf_field field;

        if (!step_into(&symbol, f->package) || !symbol.size)
                return false;
        while (protobuf_read_field(&in, &field) > 0)
                if (field.type == 2 &&
                        (field.number == FILE_MESSAGE || field.number == FILE_ENUM || field.number == FILE_SERVICE ||
                                field.number == FILE_EXTENSION) &&
                        contains(field.bytes, symbol, field.number == FILE_MESSAGE, 0))
                        return true;
        return false;
}

static int put_bytes(struct buf *out, unsigned field, struct bytes b) {
        uint8_t head[12], *p = head;
        int r;

        *p++ = (uint8_t)(field << 3 | 2);
        p = protobuf_put_varint(p, b.size);
        r = buf_append(out, head, (size_t)(p - head));
        return r < 0 ? r : buf_append(out, b.data, b.size);
}

static int put_error(struct buf *out, enum grpc_code code, const char *prefix, struct bytes what) {
        cleanup(buf_done) struct buf text = {}, error = {};
        uint8_t number[12];
        int r;

        r = buf_append_string(&text, prefix);
        if (r >= 0)
                r = buf_append(&text, what.data, what.size);
        if (r >= 0)
                r = buf_append(&error, number, (size_t)(protobuf_put_field_varint(number, 1, code) - number));
        if (r >= 0)
                r = put_bytes(&error, 2, bytes_of(text.data, text.size));
        return r < 0 ? r : put_bytes(out, 7, bytes_of(error.data, error.size));
}

/* The file and all that it needs. */
static int put_files(struct buf *out, const struct files *f, size_t first) {
        cleanup(buf_done) struct buf list = {};
        bool wanted[MAX_FILES] = {}, done[MAX_FILES] = {};
        bool more = true;
        int r;

        wanted[first] = true;
        while (more) {
                more = false;
                for (size_t i = 0; i < f->n; i++) {
                        struct bytes in = f->files[i].data;
                        struct protobuf_field field;

                        if (!wanted[i] || done[i])
                                continue;
                        done[i] = more = true;
                        r = put_bytes(&list, 1, f->files[i].data);
                        if (r < 0)
                                return r;
                        while (protobuf_read_field(&in, &field) > 0)
                                for (size_t k = 0; k < f->n; k++)
                                        if (field.type == 2 && field.number == FILE_DEPENDENCY &&
                                                bytes_equal(f->files[k].name, field.bytes))
                                                wanted[k] = true;
                }
        }
        return put_bytes(out, 4, bytes_of(list.data, list.size));
}

static int put_services(struct buf *out, struct grpc_server *s) {
        cleanup(buf_done) struct buf list = {};
        int r = 0;

        for (size_t i = 0; r >= 0 && i < s->n_services; i++) {
                cleanup(buf_done) struct buf one = {};

                r = put_bytes(&one, 1, bytes_of_string(s->services[i].service->name));
                if (r >= 0)
                        r = put_bytes(&list, 1, bytes_of(one.data, one.size));
        }
        return r < 0 ? r : put_bytes(out, 6, bytes_of(list.data, list.size));
}

static int answer(struct grpc_server *s, struct bytes request, struct buf *out) {
        struct bytes in = request, wanted = {}, host = {};
        struct protobuf_field field;
        unsigned what = 0;
        int r;

        while ((r = protobuf_read_field(&in, &field)) > 0) {
                if (field.type == 2 && field.number == 1)
                        host = field.bytes;
                if (field.type == 2 && field.number >= 3 && field.number <= 7) {
                        what = field.number;
                        wanted = field.bytes;
                }
        }
        if (r < 0)
                return r;

        r = host.size ? put_bytes(out, 1, host) : 0;
        if (r >= 0)
                r = put_bytes(out, 2, request);
        if (r < 0)
                return r;
        switch (what) {
        case 3:
        case 4: {
                struct files f = {};

                r = files_collect(s, &f);
                if (r >= 0) {
                        size_t i;

                        for (i = 0; i < f.n; i++)
                                if (what == 3 ? bytes_equal(f.files[i].name, wanted)
                                              : file_has_symbol(&f.files[i], wanted))
                                        break;
                        r = i < f.n ? put_files(out, &f, i)
                                    : put_error(out, GRPC_NOT_FOUND,
                                              what == 3 ? "file not found: " : "symbol not found: ", wanted);
                }
                free(f.files);
                return r;
        }
        case 7:
                return put_services(out, s);
        case 5:
        case 6:
                return put_error(out, GRPC_NOT_FOUND, "no extensions are known", (struct bytes){});
        default:
                return put_error(out, GRPC_INVALID_ARGUMENT, "no request that is known", (struct bytes){});
        }
}

static void on_request(struct grpc_call *call, struct bytes data) {
        cleanup(buf_done) struct buf out = {};
        struct blob *b;
        int r;

        /* A few answers may wait; one who asks on without reading is sent away. */
        if (grpc_call_pending(call) > 4 * 1024 * 1024) {
                grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "too many answers wait to be read");
                return;
        }
        r = answer(call->conn->server, data, &out);
        if (r == -EBADMSG) {
                grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "malformed ServerReflectionRequest");
                return;
        }
        b = r < 0 ? NULL : blob_copy(out.data, out.size);
        if (b)
                grpc_call_send(call, &b, 1);
        else
                grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
}

static void on_half_close(struct grpc_call *call) {
        grpc_call_finish(call, GRPC_OK, NULL);
}

#define METHOD(version)                                                                                                \
        {                                                                                                              \
                .path = "/grpc.reflection." version ".ServerReflection/ServerReflectionInfo",                          \
                .client_streaming = true, .server_streaming = true, .on_message = on_request,                          \
                .on_half_close = on_half_close,                                                                        \
        }
static const struct grpc_method method_v1 = METHOD("v1"), method_v1alpha = METHOD("v1alpha");
static const struct grpc_service v1 = {"grpc.reflection.v1.ServerReflection", &method_v1, 1},
                                 v1alpha = {"grpc.reflection.v1alpha.ServerReflection", &method_v1alpha, 1};

int reflection_add(struct grpc_server *s) {
        int r = grpc_server_add(s, &v1, bytes_of(reflection_descriptor, reflection_descriptor_size));

        return r < 0
                ? r
                : grpc_server_add(s, &v1alpha, bytes_of(reflection_alpha_descriptor, reflection_alpha_descriptor_size));
}
