#include "raw.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void raw_open(struct raw *r, struct fixture *f) {
        struct sockaddr_un sun = {.sun_family = AF_UNIX};

        *r = (struct raw){};
        strcpy(sun.sun_path, f->path);
        r->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(r->fd >= 0);
        assert_int_equal(connect(r->fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
        assert_int_equal(nghttp2_hd_inflate_new(&r->inflater), 0);
}

void raw_close(struct raw *r) {
        nghttp2_hd_inflate_del(r->inflater);
        close(r->fd);
}

void put(struct raw *r, const void *data, size_t size) {
        assert_int_equal(send(r->fd, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

bool try_put(struct raw *r, const void *data, size_t size) {
        return send(r->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size;
}

size_t make_frame(uint8_t *out, uint8_t type, uint8_t flags, uint32_t stream, const void *data, size_t size) {
        const uint8_t head[9] = {(uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size, type, flags,
                (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};

        memcpy(out, head, 9);
        if (size)
                memcpy(out + 9, data, size);
        return 9 + size;
}

void put_frame(struct raw *r, uint8_t type, uint8_t flags, uint32_t stream, const void *data, size_t size) {
        uint8_t bytes[9 + 16384];

        put(r, bytes, make_frame(bytes, type, flags, stream, data, size));
}

size_t header(uint8_t *out, const char *name, const char *value) {
        uint8_t *p = out;

        *p++ = 0; /* a literal that is not indexed */
        *p++ = (uint8_t)strlen(name);
        p = mempcpy(p, name, strlen(name));
        *p++ = (uint8_t)strlen(value); /* < 127 */
        p = mempcpy(p, value, strlen(value));
        return (size_t)(p - out);
}

size_t make_headers(
        uint8_t *out, const char *method, const char *path, const char *authority, const struct extra *extra) {
        size_t n = 0;

        n += header(out + n, ":method", method);
        n += header(out + n, ":scheme", "http");
        n += header(out + n, ":path", path);
        n += header(out + n, ":authority", authority);
        n += header(out + n, "content-type", "application/grpc");
        n += header(out + n, "te", "trailers");
        for (; extra && extra->name; extra++)
                n += header(out + n, extra->name, extra->value);
        return n;
}

void put_headers(struct raw *r, uint32_t stream, const char *path, const struct extra *extra) {
        uint8_t block[1024];

        put_frame(r, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, stream, block,
                make_headers(block, "POST", path, "localhost", extra));
}

void put_hello(struct raw *r, const void *settings, size_t size) {
        put(r, PREFACE, 24);
        put_frame(r, NGHTTP2_SETTINGS, 0, 0, settings, size);
}

size_t make_message(uint8_t *out, const char *text) {
        size_t n = strlen(text);
        const uint8_t head[5] = {0, 0, 0, (uint8_t)(n >> 8), (uint8_t)n};

        memcpy(out, head, 5);
        memcpy(out + 5, text, n);
        return 5 + n;
}

void put_message(struct raw *r, uint32_t stream, const char *text, bool end) {
        uint8_t bytes[1024];

        put_frame(r, NGHTTP2_DATA, end ? NGHTTP2_FLAG_END_STREAM : 0, stream, bytes, make_message(bytes, text));
}

bool take(struct raw *r, uint8_t *out, size_t size) {
        while (size) {
                struct pollfd p = {r->fd, POLLIN, 0};
                ssize_t n;

                if (poll(&p, 1, 5000) != 1)
                        return false;
                n = recv(r->fd, out, size, 0);
                if (n <= 0)
                        return false;
                out += n;
                size -= (size_t)n;
        }
        return true;
}

bool get_frame(struct raw *r) {
        if (!take(r, r->frame, 9))
                return false;
        r->size = (size_t)r->frame[0] << 16 | (size_t)r->frame[1] << 8 | r->frame[2];
        r->type = r->frame[3];
        r->flags = r->frame[4];
        r->stream =
                (uint32_t)r->frame[5] << 24 | (uint32_t)r->frame[6] << 16 | (uint32_t)r->frame[7] << 8 | r->frame[8];
        assert_true(r->size <= 16384);
        if (!take(r, r->frame + 9, r->size))
                return false;
        if (r->type == NGHTTP2_HEADERS) {
                const uint8_t *in = r->frame + 9;
                size_t left = r->size;

                for (;;) {
                        nghttp2_nv nv;
                        int flags = 0;
                        ssize_t n = nghttp2_hd_inflate_hd2(r->inflater, &nv, &flags, in, left, 1);

                        assert_true(n >= 0);
                        in += n;
                        left -= (size_t)n;
                        if (flags & NGHTTP2_HD_INFLATE_EMIT) {
                                char *to = strcmp((char *)nv.name, "grpc-status") == 0 ? r->status
                                        : strcmp((char *)nv.name, "grpc-message") == 0 ? r->message
                                        : strcmp((char *)nv.name, ":status") == 0      ? r->http
                                                                                       : NULL;

                                if (to)
                                        (void)snprintf(to, to == r->message ? 256 : 16, "%s", (char *)nv.value);
                        }
                        if (flags & NGHTTP2_HD_INFLATE_FINAL)
                                break;
                }
                nghttp2_hd_inflate_end_headers(r->inflater);
        }
        return true;
}

size_t get_answer(struct raw *r, uint32_t stream) {
        size_t n = 0;

        r->status[0] = r->message[0] = r->http[0] = '\0';
        for (;;) {
                assert_true(get_frame(r));
                if (r->stream != stream)
                        continue;
                assert_int_not_equal(r->type, NGHTTP2_RST_STREAM);
                if (r->type == NGHTTP2_DATA)
                        n += r->size;
                if (r->flags & NGHTTP2_FLAG_END_STREAM && r->type <= NGHTTP2_HEADERS)
                        return n;
        }
}

void expect_goaway(struct raw *r, uint32_t code, const char *reason) {
        do
                assert_true(get_frame(r));
        while (r->type != NGHTTP2_GOAWAY);
        assert_int_equal(r->frame[9 + 7], code);
        if (reason) {
                assert_int_equal(r->size - 8, strlen(reason));
                assert_memory_equal(r->frame + 9 + 8, reason, strlen(reason));
        }
}

void expect_alive(struct fixture *f) {
        struct raw r;

        raw_open(&r, f);
        put_hello(&r, NULL, 0);
        put_headers(&r, 1, "/test.Echo/Unary", NULL);
        put_message(&r, 1, "alive", true);
        assert_int_equal(get_answer(&r, 1), 10);
        assert_string_equal(r.status, "0");
        raw_close(&r);
}
