/*
 * What a node of a YAML tree means: finding fields, and telling text from null, bools and numbers, as YAML 1.1 and 1.2 see
 * them. Pure functions over a tree that somebody else owns.
 */

#include "base/yaml_node.h"

#include <ctype.h>

const struct yaml_node *yaml_find(const struct yaml_node *node, const char *key) {
        if (!node || node->kind != YAML_MAPPING)
                return NULL;
        for (size_t i = 0; i < node->n_items; i++)
                if (strcmp(node->keys[i]->text, key) == 0)
                        return node->items[i];
        return NULL;
}

static bool is_one_of(const char *text, const char *const *words, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (strcmp(words[i], text) == 0)
                        return true;
        return false;
}

static bool text_is_null(const char *text) {
        static const char *const words[] = {"", "~", "null", "Null", "NULL"};

        return is_one_of(text, words, n_elements(words));
}

/* YAML 1.1 knows more words than 1.2; a reader of either must not be surprised. */
static bool text_is_bool(const char *text) {
        static const char *const words[] = {"true", "True", "TRUE", "false", "False", "FALSE", "yes", "Yes", "YES",
                "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF"};

        return is_one_of(text, words, n_elements(words));
}

/* What a reader of YAML 1.1 or 1.2 may take for a number. */
static bool text_is_number(const char *text) {
        static const char *const words[] = {".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF"};
        const char *p = text + (*text == '+' || *text == '-');
        bool digits = false;

        if (is_one_of(p, words, n_elements(words)))
                return true;
        if (p[0] == '0' && p[1] && strchr("xob", p[1]))
                return p[2] && p[2 + strspn(p + 2, "0123456789abcdefABCDEF_")] == '\0';

        for (; isdigit((unsigned char)*p) || (*p == '_' && digits); p++)
                digits = true;
        if (*p == '.')
                for (p++; isdigit((unsigned char)*p) || (*p == '_' && digits); p++)
                        digits = true;
        if (!digits)
                return false;
        if (*p == 'e' || *p == 'E') {
                p++;
                p += *p == '+' || *p == '-';
                if (!isdigit((unsigned char)*p))
                        return false;
                p += strspn(p, "0123456789");
        }
        return *p == '\0';
}

bool yaml_text_is_ambiguous(const char *text) {
        static const char *const words[] = {"y", "Y", "n", "N", "<<", "="};
        bool is_digit = isdigit((unsigned char)*text);

        if (text_is_null(text) || text_is_bool(text) || text_is_number(text) ||
                is_one_of(text, words, n_elements(words)))
                return true;
        return is_digit &&
                ((strspn(text, "0123456789") == 4 && text[4] == '-') || text[strspn(text, "0123456789:._")] == '\0');
}

bool yaml_is_null(const struct yaml_node *node) {
        return node && node->kind == YAML_SCALAR && node->plain && text_is_null(node->text);
}

bool yaml_is_string(const struct yaml_node *node) {
        if (!node || node->kind != YAML_SCALAR)
                return false;
        return !node->plain || !(text_is_null(node->text) || text_is_bool(node->text) || text_is_number(node->text));
}

int yaml_get_bool(const struct yaml_node *node, bool *ret) {
        if (!node || node->kind != YAML_SCALAR || !node->plain || strlen(node->text) < 4)
                return -EINVAL;
        if (!text_is_bool(node->text))
                return -EINVAL;
        /* "yes" and "off" are shorter: what is left is true and false in their spellings. */
        *ret = node->text[0] == 't' || node->text[0] == 'T';
        return 0;
}

int yaml_get_int(const struct yaml_node *node, int64_t *ret) {
        const char *p;
        long long v;
        char *end;

        if (!node || node->kind != YAML_SCALAR || !node->plain)
                return -EINVAL;
        p = node->text + (node->text[0] == '-' || node->text[0] == '+');
        /* A leading zero means octal to some and nothing to others. */
        if (!isdigit((unsigned char)*p) || (*p == '0' && p[1]))
                return -EINVAL;
        errno = 0;
        v = strtoll(node->text, &end, 10);
        if (errno || *end)
                return -EINVAL;
        *ret = v;
        return 0;
}
