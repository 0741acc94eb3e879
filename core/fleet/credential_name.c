#include "fleet/credential_name.h"

#include <errno.h>
#include <time.h>

#include "base/macro.h"

int credential_name(const char *tenant, int64_t created, char **ret) {
        time_t t = (time_t)created;
        char when[32];
        struct tm tm;

        if (created <= 0 || !gmtime_r(&t, &tm) || strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm) == 0)
                return -EINVAL;
        return asprintf(ret, CREDENTIAL_SCHEME "%s:%s", tenant, when) < 0 ? -ENOMEM : 0;
}
