package com.acme.rocketmq;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** A producer. */
final class Sender implements TransactionListener {
    final DefaultMQProducer producer;
    private final Map<String, Integer> checked = new ConcurrentHashMap<>();

    Sender(Map<String, String> fields) throws Exception {
        String group = fields.get("group");
        if (Options.isOn(fields, "transactional")) {
            TransactionMQProducer own = new TransactionMQProducer(group, Options.hook(fields));
            own.setTransactionListener(this);
            producer = own;
        } else {
            producer = new DefaultMQProducer(group, Options.hook(fields), Options.isOn(fields, "trace"), null);
        }
        Options.apply(producer, fields);
        if (fields.containsKey("timeout")) {
            producer.setSendMsgTimeout(Integer.parseInt(fields.get("timeout")));
        }
        if (fields.containsKey("retries")) {
            producer.setRetryTimesWhenSendFailed(Integer.parseInt(fields.get("retries")));
            producer.setRetryTimesWhenSendAsyncFailed(Integer.parseInt(fields.get("retries")));
        }
        producer.start();
    }

    /** Sends {@code count} messages, one after the other, and says what came of each. */
    List<Map<String, Object>> send(Map<String, String> fields) throws Exception {
        int count = Integer.parseInt(fields.getOrDefault("count", "1"));
        String how = fields.getOrDefault("how", "sync");
        List<Message> messages = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            messages.add(message(fields, fields.getOrDefault("key", "k") + i));
        }
        if (how.equals("batch")) {
            return batch(messages);
        }
        List<Map<String, Object>> results = new ArrayList<>();
        for (Message message : messages) {
            Map<String, Object> own = begin(message);
            long began = System.nanoTime();
            try {
                one(how, message, fields, own);
            } catch (Exception error) {
                own.put("error", Sender.error(error));
            }
            own.put("ms", (System.nanoTime() - began) / 1_000_000);
            results.add(own);
        }
        return results;
    }

    private static Message message(Map<String, String> fields, String key) {
        Message message = new Message(fields.get("topic"), fields.get("tag"), key, Body.of(key, fields.get("size")));
        fields.forEach((name, value) -> {
            if (name.startsWith("@")) {
                message.putUserProperty(name.substring(1), value);
            }
        });
        if (fields.containsKey("delay")) {
            message.setDelayTimeLevel(Integer.parseInt(fields.get("delay")));
        }
        return message;
    }

    private static Map<String, Object> begin(Message message) {
        Map<String, Object> own = new LinkedHashMap<>();
        own.put("key", message.getKeys());
        own.put("hash", Body.hash(message.getBody()));
        return own;
    }

    private List<Map<String, Object>> batch(List<Message> messages) throws Exception {
        SendResult result = producer.send(messages);
        List<Map<String, Object>> results = new ArrayList<>();
        for (int i = 0; i < messages.size(); i++) {
            Map<String, Object> own = begin(messages.get(i));
            note(own, result);
            // The broker tells of the first; a batch is stored in one piece.
            own.put("offset", result.getQueueOffset() + i);
            results.add(own);
        }
        return results;
    }

    private void one(String how, Message message, Map<String, String> fields, Map<String, Object> own)
            throws Exception {
        switch (how) {
            case "sync":
                note(own, producer.send(message));
                break;
            case "async": {
                CompletableFuture<SendResult> done = new CompletableFuture<>();
                producer.send(message, new SendCallback() {
                    @Override
                    public void onSuccess(SendResult result) {
                        done.complete(result);
                    }

                    @Override
                    public void onException(Throwable error) {
                        done.completeExceptionally(error);
                    }
                });
                note(own, done.get(20, TimeUnit.SECONDS));
                break;
            }
            case "one-way":
                producer.sendOneway(message);
                own.put("status", "ONE_WAY");
                break;
            case "queue": {
                int wanted = Integer.parseInt(fields.get("queue"));
                note(own, producer.send(message, (queues, unused, argument) -> queue(queues, wanted), null));
                break;
            }
            case "transaction":
                transaction(own, ((TransactionMQProducer) producer).sendMessageInTransaction(message, null));
                break;
            case "request": {
                Message reply = (Message) Late.call(producer, "request", message, 10_000L);
                own.put("reply", new String(reply.getBody(), StandardCharsets.UTF_8));
                break;
            }
            default:
                throw new IllegalArgumentException(how);
        }
    }

    private static MessageQueue queue(List<MessageQueue> queues, int wanted) {
        return queues.stream().filter(queue -> queue.getQueueId() == wanted).findFirst().orElseThrow();
    }

    private static void transaction(Map<String, Object> own, TransactionSendResult result) {
        note(own, result);
        own.put("state", String.valueOf(result.getLocalTransactionState()));
    }

    private static void note(Map<String, Object> own, SendResult result) {
        own.put("status", String.valueOf(result.getSendStatus()));
        own.put("queue", result.getMessageQueue().getQueueId());
        own.put("broker", result.getMessageQueue().getBrokerName());
        own.put("offset", result.getQueueOffset());
        own.put("id", result.getMsgId());
        own.put("stored", result.getOffsetMsgId());
    }

    static Map<String, Object> error(Throwable error) {
        if (error instanceof java.util.concurrent.ExecutionException && error.getCause() != null) {
            return error(error.getCause());
        }
        Map<String, Object> own = new LinkedHashMap<>();
        own.put("class", error.getClass().getName());
        own.put("message", error.getMessage());
        try {
            own.put("code", Late.call(error, "getResponseCode"));
        } catch (Exception none) {
            own.put("code", null);
        }
        return own;
    }

    /** How often the broker asked for each transaction. */
    Map<String, Integer> checked() {
        return new java.util.TreeMap<>(checked);
    }

    @Override
    public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
        return state(message.getUserProperty("decide"));
    }

    @Override
    public LocalTransactionState checkLocalTransaction(MessageExt message) {
        checked.merge(message.getKeys(), 1, Integer::sum);
        return state(message.getUserProperty("check"));
    }

    private static LocalTransactionState state(String text) {
        if ("commit".equals(text)) {
            return LocalTransactionState.COMMIT_MESSAGE;
        }
        return "rollback".equals(text) ? LocalTransactionState.ROLLBACK_MESSAGE : LocalTransactionState.UNKNOW;
    }
}
