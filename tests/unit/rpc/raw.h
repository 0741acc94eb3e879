#pragma once

/*
 * A client that writes its frames by hand and reads the server's answers one by one: for what no library would send. All functions
 * fail the test that runs when the socket does. On the test's thread.
 */

#include <nghttp2/nghttp2.h>

#include "fixture.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

struct raw {
        int fd;
        nghttp2_hd_inflater *inflater;
        uint8_t frame[9 + 16384];
        size_t size;
        uint8_t type, flags;
        uint32_t stream;
        char status[16], message[256], http[16]; /* the last of each seen */
};

struct extra {
        const char *name, *value;
};

void raw_open(struct raw *r, struct fixture *f);
void raw_close(struct raw *r);
void put(struct raw *r, const void *data, size_t size);
/* For floods: false once the server has closed or takes no more. */
bool try_put(struct raw *r, const void *data, size_t size);
size_t make_frame(uint8_t *out, uint8_t type, uint8_t flags, uint32_t stream, const void *data, size_t size);
void put_frame(struct raw *r, uint8_t type, uint8_t flags, uint32_t stream, const void *data, size_t size);
size_t header(uint8_t *out, const char *name, const char *value);
size_t make_headers(
        uint8_t *out, const char *method, const char *path, const char *authority, const struct extra *extra);
void put_headers(struct raw *r, uint32_t stream, const char *path, const struct extra *extra);
void put_hello(struct raw *r, const void *settings, size_t size);
size_t make_message(uint8_t *out, const char *text);
void put_message(struct raw *r, uint32_t stream, const char *text, bool end);
bool take(struct raw *r, uint8_t *out, size_t size);
/* The next frame; false: the end of the connection, or nothing for 5 s. */
bool get_frame(struct raw *r);
/* Until the stream's end; returns the bytes of data. */
size_t get_answer(struct raw *r, uint32_t stream);
/* Reads until GOAWAY, which must have this code and reason. */
void expect_goaway(struct raw *r, uint32_t code, const char *reason);
/* Another client is served as before. */
void expect_alive(struct fixture *f);
