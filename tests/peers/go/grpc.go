package main

import (
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
)

var (
	healths = map[string]*health.Server{}
	serving sync.Mutex
)

// grpcServe serves gRPC's test service with health checking and reflection; gives the address.
func grpcServe(fields map[string]string) (any, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	own := health.NewServer()
	testpb.RegisterTestServiceServer(server, interop.NewTestServer())
	healthpb.RegisterHealthServer(server, own)
	reflection.Register(server)
	go server.Serve(listener)
	serving.Lock()
	defer serving.Unlock()
	healths[listener.Addr().String()] = own
	return listener.Addr().String(), nil
}

// grpcHealth has a server say how it is.
func grpcHealth(fields map[string]string) (any, error) {
	serving.Lock()
	defer serving.Unlock()
	status := healthpb.HealthCheckResponse_ServingStatus_value[fields["status"]]
	healths[fields["address"]].SetServingStatus(
		fields["service"], healthpb.HealthCheckResponse_ServingStatus(status))
	return fields["status"], nil
}
