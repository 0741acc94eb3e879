"""
etcd's messages for grpcio, from the daemon's own server reflection: nothing is generated, and reflection is tried by the way.
"""

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Proto:
    def __init__(self, daemon, tenant="demo"):
        with grpc.insecure_channel(f"unix:{daemon.root}/run/tenants/{tenant}.sock") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            self.services = list(database.get_services())
            self.pool = descriptor_pool.DescriptorPool(database)
            # Loaded while the channel stands.
            self.classes = {}
            for service in self.services:
                if service.startswith("etcdserverpb."):
                    for method in self.pool.FindServiceByName(service).methods:
                        for message in (method.input_type, method.output_type):
                            self.classes[message.name] = message_factory.GetMessageClass(message)
            create = self.classes["WatchRequest"].DESCRIPTOR.fields_by_name["create_request"].message_type
            self.classes[create.name] = message_factory.GetMessageClass(create)

    def __call__(self, message, /, **fields):
        return self.classes[message](**fields)

    def stub(self, channel, service, method):
        m = self.pool.FindServiceByName(f"etcdserverpb.{service}").methods_by_name[method]
        kind = {(False, False): channel.unary_unary, (False, True): channel.unary_stream,
                (True, False): channel.stream_unary, (True, True): channel.stream_stream}[(m.client_streaming, m.server_streaming)]
        return kind(f"/etcdserverpb.{service}/{method}", request_serializer=self.classes[m.input_type.name].SerializeToString,
                    response_deserializer=self.classes[m.output_type.name].FromString)
