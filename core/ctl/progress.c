#include "ctl/progress.h"

/* Rewritten in place. */

#include <unistd.h>

#include "base/loop.h"
#include "ctl/output.h"

#define SHOW_NS (200 * NSEC_PER_MSEC)
#define WIDTH 24

void progress_begin(struct progress *p, const char *what) {
        *p = (struct progress){.what = what, .began_ns = clock_now_ns(), .terminal = isatty(STDERR_FILENO)};
}

void progress_show(struct progress *p, uint64_t bytes, uint64_t all) {
        uint64_t now = p->terminal ? clock_now_ns() : 0;
        struct output_word word, rate, left;
        double speed, seconds;
        unsigned done;

        if (!p->terminal || now < p->shown_ns + SHOW_NS)
                return;
        p->shown_ns = now;
        seconds = (double)(now - p->began_ns) / 1e9;
        speed = seconds > 0 ? (double)bytes / seconds : 0;
        fprintf(stderr, "\r\033[K%s ", p->what);
        if (all) {
                done = (unsigned)(WIDTH * min_of((double)bytes / (double)all, 1.0));
                fputc('[', stderr);
                for (unsigned i = 0; i < WIDTH; i++)
                        fputc(i < done ? '#' : '.', stderr);
                fputs("] ", stderr);
        }
        fprintf(stderr, "%s, %s/s", output_size(bytes, &word), output_size((uint64_t)speed, &rate));
        if (all > bytes && speed > 1)
                fprintf(stderr, ", about %s left", output_age((int64_t)((double)(all - bytes) / speed) + 1, &left));
        fflush(stderr);
}

void progress_end(struct progress *p) {
        if (p->terminal && p->shown_ns)
                fputs("\r\033[K", stderr);
}
