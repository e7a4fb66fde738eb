package main

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
)

var (
	clients = map[string]*clientv3.Client{}
	opening sync.Mutex
)

func client(address string) (*clientv3.Client, error) {
	opening.Lock()
	defer opening.Unlock()
	if known := clients[address]; known != nil {
		return known, nil
	}
	fresh, err := clientv3.New(clientv3.Config{
		Endpoints: []string{address}, DialTimeout: 5 * time.Second,
	})
	if err == nil {
		clients[address] = fresh
	}
	return fresh, err
}

func manager(fields map[string]string) (endpoints.Manager, *clientv3.Client, error) {
	etcd, err := client(fields["registry"])
	if err != nil {
		return nil, nil, err
	}
	naming, err := endpoints.NewManager(etcd, fields["target"])
	return naming, etcd, err
}

// grpcRegister registers an endpoint that lives as long as this process.
func grpcRegister(fields map[string]string) (any, error) {
	naming, etcd, err := manager(fields)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	lease, err := etcd.Grant(ctx, 5)
	if err != nil {
		return nil, err
	}
	alive, err := etcd.KeepAlive(ctx, lease.ID)
	if err != nil {
		return nil, err
	}
	go func() {
		for range alive {
		}
	}()
	endpoint := endpoints.Endpoint{Addr: fields["address"]}
	if zone := fields["zone"]; zone != "" {
		endpoint.Metadata = map[string]string{"zone": zone}
	}
	key := fields["target"] + "/" + fields["address"]
	return "registered", naming.AddEndpoint(ctx, key, endpoint, clientv3.WithLease(lease.ID))
}

func grpcUnregister(fields map[string]string) (any, error) {
	naming, _, err := manager(fields)
	if err != nil {
		return nil, err
	}
	key := fields["target"] + "/" + fields["address"]
	return "unregistered", naming.DeleteEndpoint(context.Background(), key)
}

func grpcList(fields map[string]string) (any, error) {
	naming, _, err := manager(fields)
	if err != nil {
		return nil, err
	}
	found, err := naming.List(context.Background())
	addresses := []string{}
	for _, endpoint := range found {
		addresses = append(addresses, endpoint.Addr)
	}
	return addresses, err
}
