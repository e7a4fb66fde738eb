// Peer is driven like the other peers: commands on standard input, one per line, as fields parted
// by tabs; one line of JSON as the answer to each.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
)

type handler func(fields map[string]string) (any, error)

var operations = map[string]handler{
	"grpc-register":   grpcRegister,
	"grpc-unregister": grpcUnregister,
	"grpc-list":       grpcList,
	"grpc-serve":      grpcServe,
	"grpc-health":     grpcHealth,
	"grpc-load":       grpcLoad,
	"http-serve":      httpServe,
	"export":          export,
	"call":            call,
	"tls-ask":         tlsAsk,
}

var (
	out    = os.Stdout
	saying sync.Mutex
)

func main() {
	// Frameworks that print shall not garble the answers.
	os.Stdout = os.Stderr
	say(map[string]any{"id": 0, "ok": true, "value": "ready"})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		parts := strings.Split(lines.Text(), "\t")
		fields := map[string]string{}
		for _, part := range parts[2:] {
			key, value, _ := strings.Cut(part, "=")
			fields[key] = value
		}
		go func() {
			answer := map[string]any{"id": json.Number(parts[0]), "ok": true}
			value, err := handle(parts[1], fields)
			if err != nil {
				answer["ok"] = false
				answer["error"] = map[string]any{
					"class": fmt.Sprintf("%T", err), "message": err.Error(), "code": nil, "causes": []string{},
				}
			} else {
				answer["value"] = value
			}
			say(answer)
		}()
	}
}

func handle(operation string, fields map[string]string) (any, error) {
	known, found := operations[operation]
	if !found {
		return nil, fmt.Errorf("unknown operation %s", operation)
	}
	return known(fields)
}

func say(answer map[string]any) {
	line, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	saying.Lock()
	defer saying.Unlock()
	fmt.Fprintln(out, string(line))
}
