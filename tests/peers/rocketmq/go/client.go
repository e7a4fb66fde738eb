package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// An inbox keeps what a consumer has been given, in the order in which it was.
type inbox struct {
	mutex sync.Mutex
	heard []map[string]any
	grown chan struct{}
	began time.Time
}

var (
	mutex     sync.Mutex
	producers = map[string]rocketmq.Producer{}
	consumers = map[string]rocketmq.PushConsumer{}
	inboxes   = map[string]*inbox{}
)

func hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}

func body(key, size string) []byte {
	text := []byte("body of " + key + " ")
	wanted, err := strconv.Atoi(size)
	if err != nil {
		return text
	}
	all := make([]byte, wanted)
	for i := range all {
		all[i] = text[i%len(text)]
	}
	return all
}

func names(given fields) primitive.NsResolver {
	return primitive.NewPassthroughResolver(strings.Split(given["names"], ";"))
}

func credentials(given fields) primitive.Credentials {
	return primitive.Credentials{AccessKey: given["access"], SecretKey: given["secret"]}
}

func instance(given fields) string {
	return fmt.Sprintf("%s@%d", given["name"], time.Now().UnixNano())
}

func openProducer(given fields) (any, error) {
	began := time.Now()
	own, err := rocketmq.NewProducer(
		producer.WithNsResolver(names(given)),
		producer.WithGroupName(given["group"]),
		producer.WithInstanceName(instance(given)),
		producer.WithVIPChannel(given["vip"] == "true"),
		producer.WithCredentials(credentials(given)),
		producer.WithTls(given["tls"] == "true"),
		// It knows no other way to a queue than a selector.
		producer.WithQueueSelector(producer.NewRoundRobinQueueSelector()),
	)
	if err == nil {
		err = own.Start()
	}
	mutex.Lock()
	defer mutex.Unlock()
	producers[given["name"]] = own
	return time.Since(began).Milliseconds(), err
}

func openConsumer(given fields) (any, error) {
	box := &inbox{grown: make(chan struct{}, 1), began: time.Now()}
	model := consumer.Clustering
	if given["broadcasting"] == "true" {
		model = consumer.BroadCasting
	}
	failures, _ := strconv.Atoi(given["fail"])
	own, err := rocketmq.NewPushConsumer(
		consumer.WithNsResolver(names(given)),
		consumer.WithGroupName(given["group"]),
		consumer.WithInstance(instance(given)),
		consumer.WithConsumerModel(model),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithConsumerOrder(given["how"] == "orderly"),
		consumer.WithVIPChannel(given["vip"] == "true"),
		consumer.WithCredentials(credentials(given)),
		consumer.WithTls(given["tls"] == "true"),
	)
	if err != nil {
		return nil, err
	}
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: given["tags"]}
	if sql := given["sql"]; sql != "" {
		selector = consumer.MessageSelector{Type: consumer.SQL92, Expression: sql}
	}
	err = own.Subscribe(given["topic"], selector,
		func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			if at, found := primitive.GetConcurrentlyCtx(ctx); found {
				// A second, instead of the usual ten.
				at.DelayLevelWhenNextConsume = 1
			}
			for _, message := range messages {
				box.add(message)
				if int(message.ReconsumeTimes) < failures {
					return consumer.ConsumeRetryLater, nil
				}
			}
			return consumer.ConsumeSuccess, nil
		})
	if err == nil {
		err = own.Start()
	}
	mutex.Lock()
	defer mutex.Unlock()
	consumers[given["name"]] = own
	inboxes[given["name"]] = box
	return time.Since(box.began).Milliseconds(), err
}

func (box *inbox) add(message *primitive.MessageExt) {
	properties := map[string]string{}
	for name, value := range message.GetProperties() {
		// The system's own begin with a capital or a line.
		if name[0] >= 'a' && name[0] <= 'z' {
			properties[name] = value
		}
	}
	box.mutex.Lock()
	defer box.mutex.Unlock()
	box.heard = append(box.heard, map[string]any{
		"key": message.GetKeys(), "topic": message.Topic, "tag": message.GetTags(),
		"hash": hash(message.Body), "size": len(message.Body),
		"queue": message.Queue.QueueId, "offset": message.QueueOffset, "tries": message.ReconsumeTimes,
		"id": message.MsgId, "properties": properties, "born": message.BornTimestamp,
		"at": time.Now().UnixMilli(), "ms": time.Since(box.began).Milliseconds(),
	})
	select {
	case box.grown <- struct{}{}:
	default:
	}
}

// received waits for so many messages, but no longer than this, and takes what there is.
func received(given fields) (any, error) {
	mutex.Lock()
	box := inboxes[given["name"]]
	mutex.Unlock()
	count, err := strconv.Atoi(given["count"])
	if err != nil {
		return nil, err
	}
	wait, err := strconv.Atoi(given["wait"])
	if err != nil {
		wait = 30000
	}
	end := time.After(time.Duration(wait) * time.Millisecond)
	for {
		box.mutex.Lock()
		taken := box.heard
		if len(taken) >= count {
			box.heard = nil
			box.mutex.Unlock()
			return taken, nil
		}
		box.mutex.Unlock()
		select {
		case <-box.grown:
		case <-end:
			count = 0
		}
	}
}

func send(given fields) (any, error) {
	mutex.Lock()
	own := producers[given["name"]]
	mutex.Unlock()
	count, err := strconv.Atoi(given["count"])
	if err != nil {
		count = 1
	}
	results := []map[string]any{}
	for n := range count {
		key := given["key"] + strconv.Itoa(n)
		message := primitive.NewMessage(given["topic"], body(key, given["size"]))
		message.WithKeys([]string{key})
		if tag := given["tag"]; tag != "" {
			message.WithTag(tag)
		}
		if level, err := strconv.Atoi(given["delay"]); err == nil {
			message.WithDelayTimeLevel(level)
		}
		for name, value := range given {
			if strings.HasPrefix(name, "@") {
				message.WithProperty(name[1:], value)
			}
		}
		// A compressed message keeps no body of its own.
		result := map[string]any{"key": key, "hash": hash(body(key, given["size"]))}
		began := time.Now()
		sent, err := sendOne(own, given["how"], message)
		if err != nil {
			result["error"] = failure(err)
		} else if sent == nil {
			result["status"] = "ONE_WAY"
		} else {
			result["status"] = []string{"SEND_OK", "FLUSH_DISK_TIMEOUT", "FLUSH_SLAVE_TIMEOUT", "SLAVE_NOT_AVAILABLE", "UNKNOWN"}[sent.Status]
			result["queue"] = sent.MessageQueue.QueueId
			result["broker"] = sent.MessageQueue.BrokerName
			result["offset"] = sent.QueueOffset
			result["id"] = sent.MsgID
		}
		result["ms"] = time.Since(began).Milliseconds()
		results = append(results, result)
	}
	return results, nil
}

func sendOne(own rocketmq.Producer, how string, message *primitive.Message) (*primitive.SendResult, error) {
	switch how {
	case "one-way":
		return nil, own.SendOneWay(context.Background(), message)
	case "async":
		type outcome struct {
			result *primitive.SendResult
			err    error
		}
		done := make(chan outcome, 1)
		err := own.SendAsync(context.Background(), func(_ context.Context, result *primitive.SendResult, err error) {
			done <- outcome{result, err}
		}, message)
		if err != nil {
			return nil, err
		}
		got := <-done
		return got.result, got.err
	default:
		return own.SendSync(context.Background(), message)
	}
}

func closeClient(given fields) (any, error) {
	mutex.Lock()
	defer mutex.Unlock()
	name := given["name"]
	if own := producers[name]; own != nil {
		delete(producers, name)
		return true, own.Shutdown()
	}
	own := consumers[name]
	delete(consumers, name)
	return true, own.Shutdown()
}
