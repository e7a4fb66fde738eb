// Rocketmq is RocketMQ's client for Go, driven by the commands of the one for Java: one command per line
// on standard input, as fields parted by tabs; one line of JSON as the answer to each.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

type fields map[string]string

var operations = map[string]func(fields) (any, error){
	"producer": openProducer,
	"consumer": openConsumer,
	"send":     send,
	"received": received,
	"close":    closeClient,
}

var (
	out    = os.Stdout
	saying sync.Mutex
)

func main() {
	// Frameworks that print shall not garble the answers.
	os.Stdout = os.Stderr
	rlog.SetLogLevel("error")
	say(map[string]any{"id": 0, "ok": true, "value": "ready"})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		parts := strings.Split(lines.Text(), "\t")
		given := fields{}
		for _, part := range parts[2:] {
			key, value, _ := strings.Cut(part, "=")
			given[key] = value
		}
		go func() {
			answer := map[string]any{"id": json.Number(parts[0]), "ok": true}
			value, err := handle(parts[1], given)
			if err != nil {
				answer["ok"] = false
				answer["error"] = failure(err)
			} else {
				answer["value"] = value
			}
			say(answer)
		}()
	}
}

func handle(operation string, given fields) (any, error) {
	known, found := operations[operation]
	if !found {
		return nil, fmt.Errorf("unknown operation %s", operation)
	}
	return known(given)
}

func failure(err error) map[string]any {
	return map[string]any{"class": fmt.Sprintf("%T", err), "message": err.Error(), "code": nil, "causes": []string{}}
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
