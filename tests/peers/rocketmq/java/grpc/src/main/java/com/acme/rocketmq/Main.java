package com.acme.rocketmq;

import com.acme.Console;
import java.io.Closeable;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** Apache RocketMQ's client for Java on gRPC, driven by the commands of the one on remoting. */
public final class Main {
    private static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();
    private static final Map<String, Closeable> CLIENTS = new ConcurrentHashMap<>();
    private static final Map<String, Inbox> INBOXES = new ConcurrentHashMap<>();
    private static final Map<String, Integer> CHECKED = new ConcurrentHashMap<>();

    private Main() {
    }

    public static void main(String[] args) throws Exception {
        Console.serve(Main::handle);
    }

    private static Object handle(String operation, Map<String, String> fields) throws Throwable {
        String name = fields.get("name");
        long began = System.nanoTime();
        switch (operation) {
            case "producer":
                CLIENTS.put(name, producer(fields));
                return millis(began);
            case "consumer":
                INBOXES.put(name, new Inbox());
                CLIENTS.put(name, "simple".equals(fields.get("how")) ? simple(fields) : push(fields));
                return millis(began);
            case "send":
                return send((Producer) CLIENTS.get(name), fields);
            case "checked":
                return new java.util.TreeMap<>(CHECKED);
            case "received":
                return received(name, Integer.parseInt(fields.get("count")),
                        Long.parseLong(fields.getOrDefault("wait", "30000")));
            case "close":
                CLIENTS.remove(name).close();
                return true;
            default:
                throw new IllegalArgumentException(operation);
        }
    }

    private static long millis(long began) {
        return (System.nanoTime() - began) / 1_000_000;
    }

    private static ClientConfiguration configuration(Map<String, String> fields) {
        return ClientConfiguration.newBuilder().setEndpoints(fields.get("names"))
                .enableSsl("true".equals(fields.get("tls"))).setRequestTimeout(Duration.ofSeconds(10)).build();
    }

    private static Producer producer(Map<String, String> fields) throws Exception {
        return PROVIDER.newProducerBuilder().setClientConfiguration(configuration(fields))
                .setTopics(fields.get("topic").split(","))
                .setTransactionChecker(view -> {
                    CHECKED.merge(view.getKeys().iterator().next(), 1, Integer::sum);
                    return "commit".equals(view.getProperties().get("check")) ? TransactionResolution.COMMIT
                            : TransactionResolution.ROLLBACK;
                }).build();
    }

    private static Map<String, FilterExpression> filter(Map<String, String> fields) {
        String sql = fields.get("sql");
        FilterExpression expression = sql == null ? new FilterExpression(fields.getOrDefault("tags", "*"))
                : new FilterExpression(sql, FilterExpressionType.SQL92);
        return Map.of(fields.get("topic"), expression);
    }

    private static Closeable push(Map<String, String> fields) throws Exception {
        Inbox inbox = INBOXES.get(fields.get("name"));
        int failures = Integer.parseInt(fields.getOrDefault("fail", "0"));
        return PROVIDER.newPushConsumerBuilder().setClientConfiguration(configuration(fields))
                .setConsumerGroup(fields.get("group")).setSubscriptionExpressions(filter(fields))
                .setMessageListener(message -> {
                    inbox.add(message);
                    return message.getDeliveryAttempt() > failures ? ConsumeResult.SUCCESS : ConsumeResult.FAILURE;
                }).build();
    }

    private static Closeable simple(Map<String, String> fields) throws Exception {
        return PROVIDER.newSimpleConsumerBuilder().setClientConfiguration(configuration(fields))
                .setConsumerGroup(fields.get("group")).setSubscriptionExpressions(filter(fields))
                .setAwaitDuration(Duration.ofSeconds(3)).build();
    }

    private static Object received(String name, int count, long millis) throws Exception {
        Inbox inbox = INBOXES.get(name);
        if (!(CLIENTS.get(name) instanceof SimpleConsumer consumer)) {
            return inbox.take(count, millis);
        }
        long end = System.nanoTime() + millis * 1_000_000;
        for (int got = 0; got < count && System.nanoTime() < end;) {
            for (MessageView message : consumer.receive(16, Duration.ofSeconds(15))) {
                inbox.add(message);
                consumer.ack(message);
                got++;
            }
        }
        return inbox.take(0, 0);
    }

    private static Object send(Producer producer, Map<String, String> fields) throws Exception {
        List<Object> results = new ArrayList<>();
        int count = Integer.parseInt(fields.getOrDefault("count", "1"));
        for (int i = 0; i < count; i++) {
            String key = fields.getOrDefault("key", "k") + i;
            byte[] body = Body.of(key, fields.get("size"));
            Map<String, Object> own = new LinkedHashMap<>();
            own.put("key", key);
            own.put("hash", Body.hash(body));
            long began = System.nanoTime();
            try {
                one(producer, fields, message(fields, key, body), own);
            } catch (Exception error) {
                own.put("error", Map.of("class", error.getClass().getName(), "message", "" + error.getMessage()));
            }
            own.put("ms", millis(began));
            results.add(own);
        }
        return results;
    }

    private static Message message(Map<String, String> fields, String key, byte[] body) {
        MessageBuilder builder = PROVIDER.newMessageBuilder().setTopic(fields.get("topic")).setKeys(key).setBody(body);
        if (fields.containsKey("tag")) {
            builder.setTag(fields.get("tag"));
        }
        if (fields.containsKey("order")) {
            builder.setMessageGroup(fields.get("order"));
        }
        if (fields.containsKey("delay-ms")) {
            builder.setDeliveryTimestamp(System.currentTimeMillis() + Long.parseLong(fields.get("delay-ms")));
        }
        fields.forEach((name, value) -> {
            if (name.startsWith("@")) {
                builder.addProperty(name.substring(1), value);
            }
        });
        return builder.build();
    }

    private static void one(Producer producer, Map<String, String> fields, Message message, Map<String, Object> own)
            throws Exception {
        SendReceipt receipt;
        switch (fields.getOrDefault("how", "sync")) {
            case "async":
                receipt = producer.sendAsync(message).get(20, TimeUnit.SECONDS);
                break;
            case "transaction": {
                Transaction transaction = producer.beginTransaction();
                receipt = producer.send(message, transaction);
                String decide = fields.getOrDefault("@decide", "unknown");
                if (decide.equals("commit")) {
                    transaction.commit();
                } else if (decide.equals("rollback")) {
                    transaction.rollback();
                }
                break;
            }
            default:
                receipt = producer.send(message);
        }
        own.put("status", "SEND_OK");
        own.put("id", receipt.getMessageId().toString());
    }
}
