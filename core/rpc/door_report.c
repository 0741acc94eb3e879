#include "base/log.h"
#include "rpc/door_inside.h"

/* What the door tells: a metric for each result, and log lines of which there are never many. On the lanes' threads. */

#define LINES 5
#define WHILE_NS (10 * NSEC_PER_SEC)

static const char *result_name(unsigned result) {
        switch (result) {
        case DOOR_TIMEOUT:
                return "timeout";
        case DOOR_EVICTED:
                return "evicted";
        case DOOR_TOO_MANY:
                return "too_many";
        case DOOR_CLOSED:
                return "closed";
        default:
                return tls_refusal_name(result);
        }
}

void report_init(struct door *door) {
        for (unsigned i = 0; i < DOOR_N; i++) {
                char labels[64];

                (void)snprintf(labels, sizeof(labels), "result=\"%s\"", result_name(i));
                door->results[i] = metric_counter(
                        "stokehold_tls_handshakes_total", "TLS handshakes that have ended, by their result", labels);
        }
        door->open = metric_gauge("stokehold_tls_handshakes_open", "TLS connections that are not let in yet", NULL);
        door->seconds = metric_histogram("stokehold_tls_handshake_seconds",
                "Time taken by TLS handshakes that succeeded", NULL, metric_seconds_bounds, metric_seconds_n_bounds);
}

static void tell_left_out(struct door_lane *lane, unsigned result) {
        struct door_report *report = &lane->reports[result];

        if (report->n_left_out)
                log_notice("%s: %u more handshakes ended with \"%s\" in the last %u s", lane->door->address,
                        report->n_left_out, result_name(result), (unsigned)(WHILE_NS / NSEC_PER_SEC));
        *report = (struct door_report){};
}

void report_on_time(struct loop_timer *timer) {
        struct door_lane *lane = container_of(timer, struct door_lane, report_timer);

        for (unsigned i = 0; i < DOOR_N; i++)
                tell_left_out(lane, i);
}

void report_result(struct door_lane *lane, unsigned result, const char *peer, const char *why) {
        struct door_report *report = &lane->reports[result];
        struct log_context context = {.peer = peer};

        metric_add(lane->door->results[result], 1);
        if (!why)
                return;
        if (!lane->report_timer.position)
                loop_timer_set(lane->loop, &lane->report_timer, loop_now_ns(lane->loop) + WHILE_NS);
        if (report->n_lines++ < LINES)
                log_at(result == TLS_REFUSAL_LOST ? LOG_LEVEL_INFO : LOG_LEVEL_NOTICE, &context,
                        "%s: handshake refused (%s): %s", lane->door->address, result_name(result), why);
        else
                report->n_left_out++;
}
