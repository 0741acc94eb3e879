#include "fleet/etcd_client.h"

/*
 * Calls to an etcd, one at a time, on the thread that owns the client. What is asked here may be asked twice: reads, and writes that name their
 * outcome. Answers are unpacked into the caller's arena.
 */

#include <string.h>

#include "fleet/etcd_client_state.h"
#include "rpc/protobuf.h"

#define PATIENCE_NS (30 * NSEC_PER_SEC)
/* Before the first answer: a wrong address or certificate does not get better. */
#define FIRST_PATIENCE_NS (5 * NSEC_PER_SEC)
#define CALL_NS (20 * NSEC_PER_SEC)
#define PAUSE_NS (200 * NSEC_PER_MSEC)
/* Pages are asked for by number, and wanted of about this size. Small values may be followed by the largest there can be (roles by secrets), and a
 * server in use must bear that page, too: API servers ask for no more at once either. */
#define PAGE_BYTES ((size_t)2 * 1024 * 1024)
#define PAGE_KEYS_FIRST 64
#define PAGE_KEYS_MOST 500

static int parse_endpoint(const char *text, char **ret, struct error *reterr) {
        static const struct {
                const char *scheme, *address;
        } schemes[] = {{"https://", "tls:"}, {"http://", "tcp:"}, {"unix://", "unix:"}, {"unixs://", NULL}};

        if (strpbrk(text, "@?#")) /* not repeated: there may be a password in it */
                return error_set(reterr, -EINVAL,
                        "an endpoint has neither credentials nor parameters: https://HOST:PORT, http://HOST:PORT or unix:///PATH");
        for (size_t i = 0; i < n_elements(schemes); i++) {
                const char *rest = text + strlen(schemes[i].scheme);
                const char *colon;
                size_t size;

                if (strncmp(text, schemes[i].scheme, strlen(schemes[i].scheme)) != 0)
                        continue;
                if (!schemes[i].address)
                        break;
                size = strlen(rest);
                if (schemes[i].address[0] != 'u') {
                        size = strcspn(rest, "/");
                        colon = memrchr(rest, ':', size);
                        if (rest[size] && rest[size + 1])
                                break; /* a path */
                        if (!colon || colon == rest || colon + 1 == rest + size)
                                return error_set(reterr, -EINVAL, "%.200s: no port", text);
                } else if (rest[0] != '/')
                        break;
                check(asprintf(ret, "%s%.*s", schemes[i].address, (int)size, rest) > 0);
                return 0;
        }
        return error_set(
                reterr, -EINVAL, "%.200s: not an endpoint: https://HOST:PORT, http://HOST:PORT or unix:///PATH", text);
}

int etcd_client_new(const struct etcd_client_config *config, struct etcd_client **ret, struct error *reterr) {
        cleanup(etcd_client_freep) struct etcd_client *c = new0(struct etcd_client);
        bool encrypted = false;
        int r;

        c->loop = config->loop;
        c->stopped = config->stopped;
        c->patience_ns = config->patience_ns ? config->patience_ns : PATIENCE_NS;
        if (!config->n_endpoints)
                return error_set(reterr, -EINVAL, "no endpoint is given");
        c->endpoints = xcalloc(config->n_endpoints, sizeof(*c->endpoints));
        c->addresses = xcalloc(config->n_endpoints, sizeof(*c->addresses));
        for (size_t i = 0; i < config->n_endpoints; i++) {
                c->endpoints[i] = strdup(config->endpoints[i]);
                c->n_endpoints++;
                if (!c->endpoints[i])
                        return -ENOMEM;
                r = parse_endpoint(c->endpoints[i], &c->addresses[i], reterr);
                if (r < 0)
                        return r;
                encrypted = encrypted || strncmp(c->addresses[i], "tls:", 4) == 0;
        }
        if (config->tls)
                c->tls = tls_client_ref(config->tls);
        else if (encrypted) {
                r = tls_client_new(&(struct tls_client_config){}, &c->tls, reterr);
                if (r < 0)
                        return r;
        }
        *ret = steal(c);
        return 0;
}

void etcd_client_free(struct etcd_client *c) {
        if (!c)
                return;
        grpc_client_free(c->rpc);
        tls_client_unref(c->tls);
        for (size_t i = 0; i < c->n_endpoints; i++) {
                free(c->endpoints[i]);
                free(c->addresses[i]);
        }
        free(c->endpoints);
        free(c->addresses);
        free(c);
}

const char *etcd_client_endpoint(const struct etcd_client *c) {
        return c->endpoints[c->at];
}

int etcd_client_dial(struct etcd_client *c, struct error *reterr) {
        const char *address = c->addresses[c->at];
        int r;

        if (c->rpc)
                return 0;
        if (strncmp(address, "tls:", 4) == 0)
                r = grpc_client_new_tls(c->loop, address, c->tls, &c->rpc, reterr);
        else
                r = grpc_client_new(c->loop, address, &c->rpc, reterr);
        return r;
}

void etcd_client_drop(struct etcd_client *c) {
        grpc_client_free(steal(c->rpc));
        c->at = (c->at + 1) % c->n_endpoints;
}

struct nap {
        struct loop *loop;
        struct loop_timer timer;
};

static void on_nap_over(struct loop_timer *timer) {
        loop_stop(container_of(timer, struct nap, timer)->loop);
}

bool etcd_client_sleep(struct etcd_client *c, uint64_t ns) {
        struct nap nap = {.loop = c->loop, .timer = {.on_time = on_nap_over}};

        loop_timer_set(c->loop, &nap.timer, clock_now_ns() + ns);
        (void)loop_run(c->loop);
        loop_timer_clear(&nap.timer);
        return !etcd_client_is_stopped(c);
}

/* ---- calls */

struct answer {
        const ProtobufCMessageDescriptor *descriptor;
        struct arena *arena; /* borrowed */
        ProtobufCMessage *message;
        bool malformed;
};

static void on_message(void *userdata, struct bytes data) {
        struct answer *answer = userdata;

        if (answer->message)
                return;
        /* What is unpacked may point into the message's bytes, which go. */
        data = bytes_of(arena_copy(answer->arena, data.data, data.size), data.size);
        if (data.data || !data.size)
                answer->message = protobuf_unpack(answer->descriptor, answer->arena, data);
        answer->malformed = !answer->message;
}

/* The server, or what stands before it, was not ready: asking again may do. */
static bool may_pass(enum grpc_code code) {
        return code == GRPC_UNAVAILABLE || code == GRPC_DEADLINE_EXCEEDED || code == GRPC_CANCELLED;
}

int etcd_client_call(struct etcd_client *c, const char *path, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *response, struct arena *arena, void *ret, enum grpc_code *ret_code,
        struct error *reterr) {
        cleanup(blob_unrefp) struct blob *packed = protobuf_pack(request);
        uint64_t until = clock_now_ns() + (c->answered ? c->patience_ns : min_of(c->patience_ns, FIRST_PATIENCE_NS));

        if (!packed)
                return -ENOMEM;
        for (;;) {
                cleanup(error_done) struct error err = {};
                struct answer answer = {.descriptor = response, .arena = arena};
                enum grpc_code code = GRPC_UNAVAILABLE;

                if (etcd_client_is_stopped(c))
                        return error_set(reterr, -ECANCELED, "it was stopped");
                if (etcd_client_dial(c, &err) >= 0)
                        code = grpc_client_unary(c->rpc, path, CALL_NS, blob_bytes(packed), on_message, &answer, &err);
                if (etcd_client_is_stopped(c))
                        return error_set(reterr, -ECANCELED, "it was stopped");
                if (ret_code)
                        *ret_code = code;
                if (code == GRPC_OK && answer.message) {
                        c->answered = true;
                        *(void **)ret = answer.message;
                        return 0;
                }
                if (code == GRPC_OK)
                        return error_set(reterr, -EREMOTEIO, "%s: %s", etcd_client_endpoint(c),
                                answer.malformed ? "the answer is malformed" : "no answer came");
                if (!may_pass(code))
                        return error_set(reterr, -EREMOTEIO, "%s: %s", etcd_client_endpoint(c), error_text(&err));
                if (clock_now_ns() >= until)
                        return error_set(reterr, -EHOSTUNREACH, "%s: %s", etcd_client_endpoint(c), error_text(&err));
                etcd_client_drop(c);
                if (!etcd_client_sleep(c, PAUSE_NS))
                        return error_set(reterr, -ECANCELED, "it was stopped");
        }
}

/* ---- keys */

static ProtobufCBinaryData binary(struct bytes b) {
        return (ProtobufCBinaryData){.len = b.size, .data = (uint8_t *)b.data};
}

static void next_page_keys(struct etcd_client *c, const Etcdserverpb__RangeResponse *page) {
        size_t bytes = 0, n;

        for (size_t i = 0; i < page->n_kvs; i++)
                bytes += page->kvs[i]->key.len + page->kvs[i]->value.len + 32;
        if (!page->n_kvs)
                return;
        n = PAGE_BYTES / max_of(bytes / page->n_kvs, (size_t)1);
        n = min_of(n, c->page * 4); /* the next ones may be larger */
        c->page = max_of(min_of(n, (size_t)PAGE_KEYS_MOST), (size_t)8);
}

int etcd_client_list(struct etcd_client *c, const struct etcd_span *span, int64_t revision, bool keys_only,
        int (*visit)(void *userdata, const Mvccpb__KeyValue *kv), void *userdata, int64_t *ret_revision,
        struct error *reterr) {
        cleanup(buf_done) struct buf from = {};
        int r;

        r = buf_append(&from, span->key.data, span->key.size);
        if (r < 0)
                return r;
        c->page = PAGE_KEYS_FIRST; /* the last list may have been one of small values */
        for (;;) {
                Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
                cleanup(arena_done) struct arena arena = {};
                Etcdserverpb__RangeResponse *page;

                arena_init(&arena, 0);
                request.key = binary(bytes_of(from.data, from.size));
                request.range_end = binary(span->end);
                request.limit = (int64_t)c->page;
                request.revision = revision;
                request.keys_only = keys_only;
                r = etcd_client_call(c, "/etcdserverpb.KV/Range", &request.base,
                        &etcdserverpb__range_response__descriptor, &arena, &page, NULL, reterr);
                if (r < 0)
                        return r;
                if (!page->header)
                        return error_set(reterr, -EREMOTEIO, "%s: an answer without a header", etcd_client_endpoint(c));
                if (!revision)
                        revision = page->header->revision;
                for (size_t i = 0; i < page->n_kvs; i++) {
                        r = visit(userdata, page->kvs[i]);
                        if (r < 0)
                                return r;
                }
                if (!page->more || !page->n_kvs)
                        break;
                /* The next key there can be. */
                buf_clear(&from);
                r = buf_append(&from, page->kvs[page->n_kvs - 1]->key.data, page->kvs[page->n_kvs - 1]->key.len);
                if (r >= 0)
                        r = buf_append(&from, "", 1);
                if (r < 0)
                        return r;
                next_page_keys(c, page);
        }
        if (ret_revision)
                *ret_revision = revision;
        return 0;
}

int etcd_client_revision(
        struct etcd_client *c, const struct etcd_span *span, int64_t *ret_revision, struct error *reterr) {
        Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
        cleanup(arena_done) struct arena arena = {};
        Etcdserverpb__RangeResponse *response;
        int r;

        arena_init(&arena, 0);
        request.key = binary(span->key);
        request.range_end = binary(span->end);
        request.limit = 1; /* kine counts only with a range and a limit */
        r = etcd_client_call(c, "/etcdserverpb.KV/Range", &request.base, &etcdserverpb__range_response__descriptor,
                &arena, &response, NULL, reterr);
        if (r < 0)
                return r;
        if (!response->header || response->header->revision <= 0)
                return error_set(reterr, -EREMOTEIO, "%s: an answer without a revision", etcd_client_endpoint(c));
        *ret_revision = response->header->revision;
        return 0;
}

/* ---- leases */

/* kine answers so. Who may not know, or is not told for the moment, must not take it for that. */
static bool does_not_tell(int r, enum grpc_code code) {
        return r == -EREMOTEIO && (code == GRPC_UNIMPLEMENTED || code == GRPC_UNKNOWN);
}

int etcd_client_lease(
        struct etcd_client *c, int64_t id, int64_t *ret_granted, int64_t *ret_left, struct error *reterr) {
        Etcdserverpb__LeaseTimeToLiveRequest request = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
        Etcdserverpb__LeaseTimeToLiveResponse *response;
        cleanup(arena_done) struct arena arena = {};
        cleanup(error_done) struct error err = {};
        enum grpc_code code = GRPC_OK;
        int r;

        arena_init(&arena, 0);
        request.id = id;
        *ret_granted = *ret_left = 0;
        r = etcd_client_call(c, "/etcdserverpb.Lease/LeaseTimeToLive", &request.base,
                &etcdserverpb__lease_time_to_live_response__descriptor, &arena, &response, &code, &err);
        if (r == -EREMOTEIO && code == GRPC_NOT_FOUND)
                return 0;
        if (does_not_tell(r, code))
                return -EOPNOTSUPP;
        if (r < 0)
                return error_set(reterr, r, "%s", error_text(&err));
        /* One without a whole second left is there still, and may be kept alive yet; one that is not has -1. */
        if (response->ttl >= 0) {
                *ret_granted = response->grantedttl;
                *ret_left = response->ttl;
        }
        return 0;
}

int etcd_client_leases(
        struct etcd_client *c, void (*visit)(void *userdata, int64_t id), void *userdata, struct error *reterr) {
        Etcdserverpb__LeaseLeasesRequest request = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
        Etcdserverpb__LeaseLeasesResponse *response;
        cleanup(arena_done) struct arena arena = {};
        cleanup(error_done) struct error err = {};
        enum grpc_code code = GRPC_OK;
        int r;

        arena_init(&arena, 0);
        r = etcd_client_call(c, "/etcdserverpb.Lease/LeaseLeases", &request.base,
                &etcdserverpb__lease_leases_response__descriptor, &arena, &response, &code, &err);
        if (does_not_tell(r, code))
                return -EOPNOTSUPP;
        if (r < 0)
                return error_set(reterr, r, "%s", error_text(&err));
        for (size_t i = 0; i < response->n_leases; i++)
                visit(userdata, response->leases[i]->id);
        return 0;
}
