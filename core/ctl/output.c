/*
 * Printing for people (tables) and for programs (JSON, YAML). Belongs to stokectl's only thread; knows messages by their
 * descriptors alone, so that a new field of the protocol appears in -o json and -o yaml by itself. Decides nothing about exit codes.
 */

#include "ctl/output.h"

#include <ctype.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct table {
        const struct table_column *columns; /* borrowed */
        size_t n_columns;
        char **cells; /* owned, row by row */
        size_t n_cells, capacity;
};

/* Characters as a terminal counts them, nearly: code points. */
static size_t text_width(const char *text) {
        size_t n = 0;

        for (; *text; text++)
                n += ((unsigned char)*text & 0xc0) != 0x80;
        return n;
}

static void put_clean(const char *text, bool newlines) {
        for (; *text; text++) {
                unsigned char c = (unsigned char)*text;

                /* C1 controls arrive as 0xc2 0x80..0x9f in UTF-8. */
                if (c == 0xc2 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] < 0xa0) {
                        putchar('?');
                        text++;
                } else if ((c < 0x20 && !(newlines && (c == '\n' || c == '\t'))) || c == 0x7f) {
                        putchar(c == '\n' || c == '\t' ? ' ' : '?');
                } else {
                        putchar(c);
                }
        }
}

void output_text(const char *text) {
        put_clean(text, false);
}

void output_document(const char *text) {
        put_clean(text, true);
}

struct table *table_new(const struct table_column *columns, size_t n_columns) {
        struct table *table = new0(struct table);

        table->columns = columns;
        table->n_columns = n_columns;
        return table;
}

void table_free(struct table *table) {
        if (!table)
                return;
        for (size_t i = 0; i < table->n_cells; i++)
                free(table->cells[i]);
        free(table->cells);
        free(table);
}

void table_cell(struct table *table, const char *format, ...) {
        va_list ap;
        char *text;
        int r;

        va_start(ap, format);
        r = vasprintf(&text, format, ap);
        va_end(ap);
        check(r >= 0);
        if (table->n_cells == table->capacity) {
                table->capacity = table->capacity ? table->capacity * 2 : 64;
                table->cells = reallocarray(table->cells, table->capacity, sizeof(char *));
                check(table->cells);
        }
        table->cells[table->n_cells++] = text;
}

/* 0: not a terminal, nothing is cut. */
static size_t terminal_width(void) {
        struct winsize ws;

        if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) < 0)
                return 0;
        return ws.ws_col;
}

static void put_padding(size_t n) {
        while (n-- > 0)
                putchar(' ');
}

/* Cut to width code points, the last one an ellipsis. */
static void put_cell(const char *text, size_t width, bool right, bool last) {
        size_t w = text_width(text);

        if (w <= width) {
                if (right)
                        put_padding(width - w);
                output_text(text);
                if (!right && !last)
                        put_padding(width - w);
                return;
        }

        cleanup(freep) char *part = strdup(text);
        char *end = part;

        check(part);
        for (size_t n = 0; *end; end++) {
                if (((unsigned char)*end & 0xc0) != 0x80 && ++n == width)
                        break;
        }
        *end = 0;
        output_text(part);
        fputs("…", stdout);
}

void table_print(const struct table *table) {
        size_t terminal = terminal_width(), total = 0, n = table->n_columns;
        cleanup(freep) size_t *widths = xcalloc(n, sizeof(size_t));

        for (size_t c = 0; c < n; c++)
                widths[c] = text_width(table->columns[c].title);
        for (size_t i = 0; i < table->n_cells; i++)
                widths[i % n] = max_of(widths[i % n], text_width(table->cells[i]));
        for (size_t c = 0; c < n; c++)
                total += widths[c] + (c ? 2 : 0);

        /* The widest column that may shrink gives way, one character at a time. */
        while (terminal > 0 && total > terminal) {
                size_t widest = n;

                for (size_t c = 0; c < n; c++)
                        if ((table->columns[c].flags & TABLE_SHRINK) && widths[c] > 12 &&
                                (widest == n || widths[c] > widths[widest]))
                                widest = c;
                if (widest == n)
                        break;
                widths[widest]--;
                total--;
        }

        fputs(output_colour(COLOUR_STRONG), stdout);
        for (size_t c = 0; c < n; c++) {
                if (c)
                        fputs("  ", stdout);
                put_cell(table->columns[c].title, widths[c], table->columns[c].flags & TABLE_RIGHT, c + 1 == n);
        }
        fputs(output_colour_off(), stdout);
        putchar('\n');
        for (size_t i = 0; i < table->n_cells; i++) {
                size_t c = i % n;

                if (c)
                        fputs("  ", stdout);
                put_cell(table->cells[i], widths[c], table->columns[c].flags & TABLE_RIGHT, c + 1 == n);
                if (c + 1 == n)
                        putchar('\n');
        }
}

void output_field(const char *name, const char *format, ...) {
        cleanup(freep) char *text = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&text, format, ap);
        va_end(ap);
        check(r >= 0);
        printf("%s:", name);
        put_padding(text_width(name) < 15 ? 15 - text_width(name) : 1);
        output_text(text);
        putchar('\n');
}

static bool colour_wanted(void) {
        static int wanted = -1;

        if (wanted < 0) {
                const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

                wanted = isatty(STDOUT_FILENO) && !(no && *no) && term && strcmp(term, "dumb") != 0;
        }
        return wanted;
}

const char *output_colour(enum output_colour colour) {
        if (!colour_wanted())
                return "";
        switch (colour) {
        case COLOUR_GOOD:
                return "\033[32m";
        case COLOUR_BAD:
                return "\033[31m";
        case COLOUR_WARN:
                return "\033[33m";
        case COLOUR_STRONG:
                return "\033[1m";
        }
        return "";
}

const char *output_colour_off(void) {
        return colour_wanted() ? "\033[0m" : "";
}

const char *output_size(uint64_t bytes, struct output_word *word) {
        static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
        double value = (double)bytes;
        size_t unit = 0;

        /* 1023.96 would print as 1024.0 */
        while (value >= 1023.95 && unit + 1 < n_elements(units)) {
                value /= 1024;
                unit++;
        }
        snprintf(word->text, sizeof(word->text), unit == 0 || value >= 99.95 ? "%.0f %s" : "%.1f %s", value,
                units[unit]);
        return word->text;
}

const char *output_age(int64_t seconds, struct output_word *word) {
        int64_t s = seconds < 0 ? 0 : seconds;

        if (s < 60)
                snprintf(word->text, sizeof(word->text), "%llds", (long long)s);
        else if (s < 600)
                snprintf(word->text, sizeof(word->text), "%lldm%llds", (long long)(s / 60), (long long)(s % 60));
        else if (s < 3600)
                snprintf(word->text, sizeof(word->text), "%lldm", (long long)(s / 60));
        else if (s < 86400)
                snprintf(word->text, sizeof(word->text), "%lldh%lldm", (long long)(s / 3600), (long long)(s / 60 % 60));
        else if (s < 10 * 86400)
                snprintf(word->text, sizeof(word->text), "%lldd%lldh", (long long)(s / 86400),
                        (long long)(s / 3600 % 24));
        else
                snprintf(word->text, sizeof(word->text), "%lldd", (long long)(s / 86400));
        return word->text;
}

const char *output_since(const char *time_text, struct output_word *word) {
        struct tm tm = {};
        const char *end = strptime(time_text, "%Y-%m-%dT%H:%M:%S", &tm);

        if (!end || !(*end == 'Z' || *end == '.')) {
                snprintf(word->text, sizeof(word->text), "-");
                return word->text;
        }
        return output_age((int64_t)(time(NULL) - timegm(&tm)), word);
}
