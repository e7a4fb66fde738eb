package com.acme.rocketmq;

import com.acme.Console;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Apache RocketMQ's own client for Java on remoting, of whichever version is on the class path.
 *
 * <p>{@code producer} and {@code consumer} open a client under a name; {@code send}, {@code received}
 * and the others use it.
 */
public final class Main {
    private static final Map<String, Sender> SENDERS = new ConcurrentHashMap<>();
    private static final Map<String, Receiver> RECEIVERS = new ConcurrentHashMap<>();

    private Main() {
    }

    public static void main(String[] args) throws Exception {
        Console.serve(Main::handle);
    }

    private static Object handle(String operation, Map<String, String> fields) throws Throwable {
        String name = fields.get("name");
        switch (operation) {
            case "producer": {
                long began = System.nanoTime();
                SENDERS.put(name, new Sender(fields));
                return millis(began);
            }
            case "consumer": {
                long began = System.nanoTime();
                RECEIVERS.put(name, Receiver.open(fields));
                return millis(began);
            }
            case "send":
                return SENDERS.get(name).send(fields);
            case "checked":
                return SENDERS.get(name).checked();
            case "received":
                return RECEIVERS.get(name).inbox.take(Integer.parseInt(fields.get("count")),
                        Long.parseLong(fields.getOrDefault("wait", "30000")));
            case "offsets":
                return offsets(SENDERS.get(name).producer, fields.get("topic"));
            case "find":
                return find(SENDERS.get(name).producer, fields.get("topic"), fields.get("key"));
            case "view":
                return keyOf(SENDERS.get(name).producer.viewMessage(fields.get("topic"), fields.get("id")));
            case "topic":
                create(SENDERS.get(name).producer, fields.get("topic"), Integer.parseInt(fields.get("queues")));
                return true;
            case "close":
                return close(name);
            default:
                throw new IllegalArgumentException(operation);
        }
    }

    private static long millis(long began) {
        return (System.nanoTime() - began) / 1_000_000;
    }

    private static Object close(String name) throws Exception {
        Sender sender = SENDERS.remove(name);
        if (sender != null) {
            sender.producer.shutdown();
        }
        Receiver receiver = RECEIVERS.remove(name);
        if (receiver != null) {
            receiver.close();
        }
        return sender != null || receiver != null;
    }

    /** The first and the next offset of each queue. */
    private static Object offsets(DefaultMQProducer producer, String topic) throws Exception {
        List<Object> all = new ArrayList<>();
        for (MessageQueue queue : producer.fetchPublishMessageQueues(topic)) {
            Map<String, Object> own = new LinkedHashMap<>();
            own.put("broker", queue.getBrokerName());
            own.put("queue", queue.getQueueId());
            own.put("first", producer.minOffset(queue));
            own.put("next", producer.maxOffset(queue));
            own.put("now", producer.searchOffset(queue, System.currentTimeMillis()));
            all.add(own);
        }
        return all;
    }

    private static Object find(DefaultMQProducer producer, String topic, String key) throws Exception {
        QueryResult result = producer.queryMessage(topic, key, 32, 0, Long.MAX_VALUE);
        List<Object> all = new ArrayList<>();
        for (MessageExt message : result.getMessageList()) {
            all.add(keyOf(message));
        }
        return all;
    }

    private static Object keyOf(MessageExt message) {
        Map<String, Object> own = new LinkedHashMap<>();
        own.put("key", message.getKeys());
        own.put("hash", Body.hash(message.getBody()));
        own.put("queue", message.getQueueId());
        own.put("offset", message.getQueueOffset());
        return own;
    }

    private static void create(DefaultMQProducer producer, String topic, int queues) throws Exception {
        try {
            Late.call(producer, "createTopic", "TBW102", topic, queues);
        } catch (NoSuchMethodException newer) {
            Late.call(producer, "createTopic", "TBW102", topic, queues, Map.of());
        }
    }
}
