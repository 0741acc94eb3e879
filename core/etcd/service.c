/*
 * Registers the services. No state.
 */

#include "etcd/service.h"

#include <stokehold/etcd.desc.h>

#include "etcd/services.h"

int etcd_services_add(struct grpc_server *server) {
        const struct grpc_service *services[] = {
                &etcd_kv_service,
                &etcd_watch_service,
                &etcd_lease_service,
                &etcd_maintenance_service,
                &etcd_cluster_service,
                &etcd_auth_service,
        };
        int r;

        for (size_t i = 0; i < n_elements(services); i++) {
                r = grpc_server_add(server, services[i], bytes_of(etcd_descriptor, etcd_descriptor_size));
                if (r < 0)
                        return r;
        }
        return 0;
}
