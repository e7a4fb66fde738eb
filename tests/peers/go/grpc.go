package main

import (
	"context"
	"net"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

var (
	healths = map[string]*health.Server{}
	serving sync.Mutex
)

// number reads a field; 0 if it is missing.
func number(fields map[string]string, key string) int {
	value, _ := strconv.Atoi(fields[key])
	return value
}

// grpcServe serves gRPC's test service with health checking and reflection; gives the address. Fields
// in milliseconds: age, after which a connection is ended gracefully; delay of a unary call. streams
// bounds the calls at once on a connection.
func grpcServe(fields map[string]string) (any, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	delay := time.Duration(number(fields, "delay")) * time.Millisecond
	options := []grpc.ServerOption{grpc.UnaryInterceptor(
		func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			time.Sleep(delay)
			return next(ctx, request)
		})}
	if streams := number(fields, "streams"); streams > 0 {
		options = append(options, grpc.MaxConcurrentStreams(uint32(streams)))
	}
	if age := number(fields, "age"); age > 0 {
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: time.Duration(age) * time.Millisecond,
		}))
	}
	server := grpc.NewServer(options...)
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

// grpcLoad makes so many calls in a row from so many callers, over one connection; counts them by how they
// ended.
func grpcLoad(fields map[string]string) (any, error) {
	connection, err := grpc.NewClient(fields["address"],
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	client := testpb.NewTestServiceClient(connection)
	endings := map[string]int{}
	var counting sync.Mutex
	var callers sync.WaitGroup
	for range number(fields, "callers") {
		callers.Add(1)
		go func() {
			defer callers.Done()
			for range number(fields, "calls") {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: 100})
				cancel()
				ending := "ok"
				if err != nil {
					ending = err.Error()
				}
				counting.Lock()
				endings[ending]++
				counting.Unlock()
			}
		}()
	}
	callers.Wait()
	return endings, nil
}
