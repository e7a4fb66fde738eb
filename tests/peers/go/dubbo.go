package main

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"dubbo.apache.org/dubbo-go/v3"
	dubboclient "dubbo.apache.org/dubbo-go/v3/client"
	_ "dubbo.apache.org/dubbo-go/v3/imports"
	"dubbo.apache.org/dubbo-go/v3/protocol"
	"dubbo.apache.org/dubbo-go/v3/registry"
	"dubbo.apache.org/dubbo-go/v3/server"
)

const greeterInterface = "com.acme.Greeter"

// Greeter is call-compatible with the Java peers' interface.
type Greeter struct {
	name string
}

func (g *Greeter) SayHello(_ context.Context, who string) (string, error) {
	return "hello " + who + " from " + g.name, nil
}

func (g *Greeter) Who(context.Context) (string, error) {
	return g.name, nil
}

func (g *Greeter) Reference() string {
	return greeterInterface
}

func (g *Greeter) MethodMapper() map[string]string {
	return map[string]string{"SayHello": "sayHello", "Who": "who"}
}

func registryOptions(fields map[string]string) []registry.Option {
	kind, address, _ := strings.Cut(fields["registry"], "://")
	options := []registry.Option{registry.WithAddress(address), registry.WithRegisterInterface()}
	if kind == "etcdv3" {
		return append(options, registry.WithEtcdV3())
	}
	return append(options, registry.WithZookeeper())
}

func export(fields map[string]string) (any, error) {
	port, err := strconv.Atoi(fields["port"])
	if err != nil {
		return nil, err
	}
	instance, err := dubbo.NewInstance(
		dubbo.WithName("acme-go"),
		dubbo.WithRegistry(registryOptions(fields)...),
		dubbo.WithProtocol(protocol.WithDubbo(), protocol.WithPort(port)),
	)
	if err != nil {
		return nil, err
	}
	serving, err := instance.NewServer()
	if err != nil {
		return nil, err
	}
	options := []server.ServiceOption{server.WithInterface(greeterInterface)}
	if group := fields["group"]; group != "" {
		options = append(options, server.WithGroup(group))
	}
	if err := serving.Register(&Greeter{name: fields["name"]}, nil, options...); err != nil {
		return nil, err
	}
	failed := make(chan error, 1)
	go func() { failed <- serving.Serve() }()
	select {
	case err := <-failed:
		return nil, err
	case <-time.After(2 * time.Second):
		return "exported " + fields["name"], nil
	}
}

var (
	connections = map[string]*dubboclient.Connection{}
	connecting  sync.Mutex
)

func connection(fields map[string]string) (*dubboclient.Connection, error) {
	connecting.Lock()
	defer connecting.Unlock()
	key := fields["registry"] + "|" + fields["url"] + "|" + fields["group"] + "|" + fields["version"]
	if known := connections[key]; known != nil {
		return known, nil
	}
	options := []dubbo.InstanceOption{dubbo.WithName("acme-go-consumer")}
	if fields["registry"] != "" {
		options = append(options, dubbo.WithRegistry(registryOptions(fields)...))
	}
	instance, err := dubbo.NewInstance(options...)
	if err != nil {
		return nil, err
	}
	calling, err := instance.NewClient(dubboclient.WithClientProtocolDubbo())
	if err != nil {
		return nil, err
	}
	reference := []dubboclient.ReferenceOption{}
	if fields["url"] != "" {
		reference = append(reference, dubboclient.WithURL(fields["url"]))
	}
	if fields["group"] != "" {
		reference = append(reference, dubboclient.WithGroup(fields["group"]))
	}
	if fields["version"] != "" {
		reference = append(reference, dubboclient.WithVersion(fields["version"]))
	}
	fresh, err := calling.Dial(greeterInterface, reference...)
	if err == nil {
		connections[key] = fresh
	}
	return fresh, err
}

func call(fields map[string]string) (any, error) {
	connected, err := connection(fields)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var answer string
	arguments := []any{}
	if fields["method"] == "sayHello" {
		arguments = append(arguments, fields["arg"])
	}
	err = connected.CallUnary(ctx, arguments, &answer, fields["method"])
	return answer, err
}
