/* If these fail, a definition is read as something else than what its author sees, or a file can bring the daemon down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/yaml.h"

static struct yaml_file *parse(const char *text) {
        struct yaml_file *file = NULL;
        struct error err = {};
        unsigned line = 0;

        if (yaml_parse(bytes_of_string(text), &file, &line, &err) < 0)
                fail_msg("%u: %s", line, error_text(&err));
        return file;
}

static const struct yaml_node *root(const struct yaml_file *file) {
        assert_true(file->n_documents > 0);
        return file->documents[0].root;
}

static void test_tree(void **state) {
        struct yaml_file *f =
                parse("# head\na: x\nb:\n  - 1\n  - 'two'\n  - {c: [], d: }\ne: |\n  line\n  line\n---\n- y\n---\n");
        const struct yaml_node *r, *b;

        (void)state;
        assert_int_equal(f->n_documents, 3);
        assert_int_equal(f->documents[1].line, 10);
        r = root(f);
        assert_int_equal(r->kind, YAML_MAPPING);
        assert_int_equal(r->line, 2);
        assert_int_equal(r->n_items, 3);
        assert_string_equal(r->keys[1]->text, "b");
        b = yaml_find(r, "b");
        assert_int_equal(b->kind, YAML_SEQUENCE);
        assert_int_equal(b->n_items, 3);
        assert_int_equal(b->items[1]->line, 5);
        assert_true(b->items[0]->plain);
        assert_false(b->items[1]->plain);
        assert_int_equal(yaml_find(b->items[2], "c")->n_items, 0);
        assert_true(yaml_is_null(yaml_find(b->items[2], "d")));
        assert_string_equal(yaml_find(r, "e")->text, "line\nline\n");
        assert_null(yaml_find(r, "f"));
        assert_null(yaml_find(b, "a"));
        assert_null(yaml_find(NULL, "a"));
        assert_true(yaml_is_null(f->documents[2].root));
        yaml_file_free(f);

        f = parse("");
        assert_int_equal(f->n_documents, 0);
        yaml_file_free(f);
        f = parse("# only a comment\n");
        assert_int_equal(f->n_documents, 0);
        yaml_file_free(f);
        f = parse("%YAML 1.1\n---\na\n");
        assert_string_equal(root(f)->text, "a");
        yaml_file_free(f);
        yaml_file_free(NULL);
}

static void test_scalars(void **state) {
        static const struct {
                const char *text;
                bool is_null, is_string;
                int boolean;    /* -1: none */
                int64_t number; /* INT64_MIN: none */
        } cases[] = {
                {"", true, false, -1, INT64_MIN},
                {"~", true, false, -1, INT64_MIN},
                {"null", true, false, -1, INT64_MIN},
                {"nULL", false, true, -1, INT64_MIN},
                {"'null'", false, true, -1, INT64_MIN},
                {"\"\"", false, true, -1, INT64_MIN},
                {"true", false, false, 1, INT64_MIN},
                {"False", false, false, 0, INT64_MIN},
                {"'true'", false, true, -1, INT64_MIN},
                {"yes", false, false, -1, INT64_MIN},
                {"off", false, false, -1, INT64_MIN},
                {"0", false, false, -1, 0},
                {"12", false, false, -1, 12},
                {"-12", false, false, -1, -12},
                {"'12'", false, true, -1, INT64_MIN},
                {"0660", false, false, -1, INT64_MIN},
                {"0x1f", false, false, -1, INT64_MIN},
                {"0o17", false, false, -1, INT64_MIN},
                {"1.5", false, false, -1, INT64_MIN},
                {".5", false, false, -1, INT64_MIN},
                {"1e3", false, false, -1, INT64_MIN},
                {"1_000", false, false, -1, INT64_MIN},
                {"-.inf", false, false, -1, INT64_MIN},
                {"9223372036854775807", false, false, -1, INT64_MAX},
                {"9223372036854775808", false, false, -1, INT64_MIN},
                {"1.2.3", false, true, -1, INT64_MIN},
                {"127.0.0.1:80", false, true, -1, INT64_MIN},
                {"5m", false, true, -1, INT64_MIN},
                {"0x", false, true, -1, INT64_MIN},
                {"1e", false, true, -1, INT64_MIN},
                {"e5", false, true, -1, INT64_MIN},
                {".", false, true, -1, INT64_MIN},
                {"-", false, true, -1, INT64_MIN},
        };

        (void)state;
        for (size_t i = 0; i < n_elements(cases); i++) {
                char text[64];
                struct yaml_file *f;
                const struct yaml_node *n;
                bool b = false;
                int64_t v = 0;

                snprintf(text, sizeof(text), strcmp(cases[i].text, "-") == 0 ? "k: '%s'\n" : "k: %s\n", cases[i].text);
                f = parse(text);
                n = yaml_find(root(f), "k");
                assert_int_equal(yaml_is_null(n), cases[i].is_null);
                assert_int_equal(yaml_is_string(n), cases[i].is_string);
                assert_int_equal(yaml_get_bool(n, &b), cases[i].boolean < 0 ? -EINVAL : 0);
                if (cases[i].boolean >= 0)
                        assert_int_equal(b, cases[i].boolean);
                assert_int_equal(yaml_get_int(n, &v), cases[i].number == INT64_MIN ? -EINVAL : 0);
                if (cases[i].number != INT64_MIN)
                        assert_true(v == cases[i].number);
                yaml_file_free(f);
        }
        assert_false(yaml_is_null(NULL));
        assert_false(yaml_is_string(NULL));
}

static void test_refused(void **state) {
        static const struct {
                const char *text;
                unsigned line;
                const char *reason;
        } cases[] = {
                {"a: 1\nb: &x 2\n", 2, "anchors are not allowed (a value that begins with & needs quotes)"},
                {"a: &x\n  b: 1\n", 1, "anchors are not allowed (a value that begins with & needs quotes)"},
                {"a: &x [1]\n", 1, "anchors are not allowed (a value that begins with & needs quotes)"},
                {"a: 1\n\nb: *x\n", 3, "aliases are not allowed (a value that begins with * needs quotes)"},
                {"a: !!str 5\n", 1, "tags are not allowed (a value that begins with ! needs quotes)"},
                {"a: !mine {}\n", 1, "tags are not allowed (a value that begins with ! needs quotes)"},
                {"%TAG ! tag:x,2000:\n---\na: 1\n", 1, "tags are not allowed"},
                {"a:\n  <<: {b: 1}\n", 2, "merge keys (<<) are not allowed"},
                {"? [a]\n: b\n", 1, "a key must be a plain word or a string"},
                {"a: 1\nb: 2\n'a': 3\n", 3, "key \"a\" is there twice, first in line 1"},
                {"x:\n- {c: 1,\n   c: 2}\n", 3, "key \"c\" is there twice, first in line 2"},
                {"a: \"x\\0y\"\n", 1, "text with a NUL in it"},
                {"a: [1\n", 2,
                        "did not find expected ',' or ']' (while parsing a flow sequence that begins in line 1)"},
                {"a: b: c\n", 1, "mapping values are not allowed in this context"},
                {"a: 1\nb: \xff\n", 2, "not UTF-8 text: invalid leading UTF-8 octet"},
                {"a: 1\nb: \x01\n", 2, "not UTF-8 text: control characters are not allowed"},
                {"--- a\n--- b\n... c\n", 3, "did not find expected <document start>"},
        };

        (void)state;
        for (size_t i = 0; i < n_elements(cases); i++) {
                struct yaml_file *f = NULL;
                struct error err = {};
                unsigned line = 0;

                assert_int_equal(yaml_parse(bytes_of_string(cases[i].text), &f, &line, &err), -EBADMSG);
                assert_null(f);
                assert_string_equal(error_text(&err), cases[i].reason);
                assert_int_equal(line, cases[i].line);
                error_done(&err);
        }
}

static int parse_buf(struct buf *b, char reason[128]) {
        struct yaml_file *f = NULL;
        struct error err = {};
        unsigned line;
        int r = yaml_parse(bytes_of(b->data, b->size), &f, &line, &err);

        snprintf(reason, 128, "%s", r < 0 ? error_text(&err) : "");
        yaml_file_free(f);
        error_done(&err);
        buf_clear(b);
        return r;
}

/* A small file must not take much memory, stack or time. */
static void test_limits(void **state) {
        struct buf b = {};
        char reason[128];

        (void)state;
        for (unsigned depth = 64; depth <= 65; depth++) {
                for (unsigned i = 0; i < depth; i++)
                        assert_int_equal(buf_append_string(&b, "["), 0);
                for (unsigned i = 0; i < depth; i++)
                        assert_int_equal(buf_append_string(&b, "]"), 0);
                assert_int_equal(parse_buf(&b, reason), depth == 64 ? 0 : -EBADMSG);
        }
        assert_string_equal(reason, "nested deeper than 64");

        for (unsigned i = 0; i < 1000000; i++)
                assert_int_equal(buf_append_string(&b, "{a: ["), 0);
        assert_int_equal(parse_buf(&b, reason), -EBADMSG);
        assert_string_equal(reason, "nested deeper than 64");

        for (unsigned i = 0; i < 100001; i++)
                assert_int_equal(buf_append_string(&b, "- \n"), 0);
        assert_int_equal(parse_buf(&b, reason), -EBADMSG);
        assert_string_equal(reason, "more than 100000 nodes");
        for (unsigned i = 0; i < 100001; i++)
                assert_int_equal(buf_append_string(&b, "---\n"), 0);
        assert_int_equal(parse_buf(&b, reason), -EBADMSG);
        assert_string_equal(reason, "more than 100000 nodes");

        for (unsigned i = 0; i < 40000; i++)
                assert_int_equal(buf_printf(&b, "key%u: %u\n", i, i), 0);
        assert_int_equal(parse_buf(&b, reason), 0);
        buf_done(&b);
}

/* Every byte of a text that has everything in it, cut and spoilt. */
static void test_spoilt(void **state) {
        static const char text[] =
                "%YAML 1.2\n---\na: [1, 'b', \"c\\n\", {d: e}]\n? f\n: |+\n  g\n\n  h\ni: >-\n j\n k\n...\n--- # l\n- - m\n  - n\n";
        struct buf b = {};
        char reason[128];

        (void)state;
        for (size_t n = 0; n < sizeof(text); n++) {
                assert_int_equal(buf_append(&b, text, n), 0);
                (void)parse_buf(&b, reason);
                for (unsigned c = 0; c < 256 && n < sizeof(text) - 1; c += 3) {
                        assert_int_equal(buf_append(&b, text, sizeof(text) - 1), 0);
                        b.data[n] = (uint8_t)c;
                        (void)parse_buf(&b, reason);
                }
        }
        buf_done(&b);
}

/* ---- printing */

static void test_writer(void **state) {
        struct yaml_writer *w;
        struct buf out = {};

        (void)state;
        assert_int_equal(yaml_writer_new(&out, &w), 0);
        yaml_write_mapping(w);
        yaml_write_key(w, "name");
        yaml_write_string(w, "x");
        yaml_write_key(w, "list");
        yaml_write_sequence(w);
        yaml_write_int(w, -5);
        yaml_write_bool(w, true);
        yaml_write_null(w);
        yaml_write_empty_sequence(w);
        yaml_write_empty_mapping(w);
        yaml_write_end(w);
        yaml_write_key(w, "12");
        yaml_write_mapping(w);
        yaml_write_key(w, "a b");
        yaml_write_string(w, "c: d");
        yaml_write_end(w);
        yaml_write_end(w);
        assert_int_equal(yaml_writer_finish(w), 0);
        yaml_writer_free(w);
        assert_int_equal(buf_append(&out, "", 1), 0);
        assert_string_equal(
                (char *)out.data, "name: x\nlist:\n- -5\n- true\n- null\n- []\n- {}\n\"12\":\n  a b: 'c: d'\n");
        buf_done(&out);
        yaml_writer_free(NULL);
}

/* Whatever a string is, it reads back as the same string. */
static void test_strings_round_trip(void **state) {
        static const char *const strings[] = {"", "a", "null", "~", "true", "Yes", "off", "y", "12", "-1.5e3", "0x1f",
                ".inf", "0660", "2024-01-02", "2024-01-02T03:04:05Z", "12:30:45", "a: b", "a #b", "- a", "? a", "[a]",
                "{a}", "&a", "*a", "!a", "|", ">", "'", "\"", "a'b\"c", "%a", "@a", "`a", " lead", "trail ",
                "two\nlines", "line\n", "\n", "tab\there", "bell\a", "esc\e[0m", "---", "...", "--- a",
                "\xc3\xa9t\xc3\xa9", "\xf0\x9f\x9a\xa2", "\xe2\x80\xa8", "\xc2\x85", "\xef\xbb\xbf", "a\\b", "=", "<<",
                ",", "a,b", ":", "a:", ":a", "#", "a\r\nb", "\x7f", "C:\\x", "http://h:1/?a=b&c#d"};

        (void)state;
        for (size_t i = 0; i < n_elements(strings); i++) {
                struct yaml_writer *w;
                struct yaml_file *f;
                struct buf out = {};
                const struct yaml_node *r;

                assert_int_equal(yaml_writer_new(&out, &w), 0);
                yaml_write_mapping(w);
                yaml_write_key(w, strings[i]);
                yaml_write_sequence(w);
                yaml_write_string(w, strings[i]);
                yaml_write_end(w);
                yaml_write_end(w);
                assert_int_equal(yaml_writer_finish(w), 0);
                yaml_writer_free(w);
                assert_int_equal(buf_append(&out, "", 1), 0);
                f = parse((char *)out.data);
                r = root(f);
                assert_int_equal(r->n_items, 1);
                assert_string_equal(r->keys[0]->text, strings[i]);
                assert_string_equal(r->items[0]->items[0]->text, strings[i]);
                assert_true(yaml_is_string(r->items[0]->items[0]));
                yaml_file_free(f);
                buf_done(&out);
        }
}

static void test_writer_errors(void **state) {
        static const char *const bad[] = {
                "\xff", "a\xc3", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf"};
        struct buf out = {.max = 300};
        struct yaml_writer *w;

        (void)state;
        /* No text, but no way to make broken YAML either. */
        for (size_t i = 0; i < n_elements(bad); i++) {
                struct yaml_file *f;

                assert_int_equal(yaml_writer_new(&out, &w), 0);
                yaml_write_sequence(w);
                yaml_write_string(w, bad[i]);
                yaml_write_end(w);
                assert_int_equal(yaml_writer_finish(w), 0);
                yaml_writer_free(w);
                assert_int_equal(buf_append(&out, "", 1), 0);
                f = parse((char *)out.data);
                assert_non_null(strstr(root(f)->items[0]->text, "\xef\xbf\xbd"));
                yaml_file_free(f);
                buf_clear(&out);
        }

        /* What does not fit is told at the end. */
        assert_int_equal(yaml_writer_new(&out, &w), 0);
        yaml_write_sequence(w);
        for (unsigned i = 0; i < 10000; i++)
                yaml_write_string(w, "words and words");
        yaml_write_end(w);
        assert_int_equal(yaml_writer_finish(w), -EMSGSIZE);
        yaml_writer_free(w);
        buf_done(&out);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_tree),
                cmocka_unit_test(test_scalars),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_limits),
                cmocka_unit_test(test_spoilt),
                cmocka_unit_test(test_writer),
                cmocka_unit_test(test_strings_round_trip),
                cmocka_unit_test(test_writer_errors),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
