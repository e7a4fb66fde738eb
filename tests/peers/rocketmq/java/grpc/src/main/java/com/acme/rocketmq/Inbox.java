package com.acme.rocketmq;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.client.apis.message.MessageView;

/** What a consumer has been given, in the order in which it was. */
final class Inbox {
    private final long began = System.nanoTime();
    private final List<Map<String, Object>> messages = new ArrayList<>();

    synchronized void add(MessageView message) {
        ByteBuffer buffer = message.getBody();
        byte[] body = new byte[buffer.remaining()];
        buffer.get(body);
        Map<String, Object> own = new LinkedHashMap<>();
        own.put("key", String.join(" ", message.getKeys()));
        own.put("topic", message.getTopic());
        own.put("tag", message.getTag().orElse(null));
        own.put("hash", Body.hash(body));
        own.put("size", body.length);
        own.put("tries", message.getDeliveryAttempt() - 1);
        own.put("id", message.getMessageId().toString());
        own.put("properties", new TreeMap<>(message.getProperties()));
        own.put("order", message.getMessageGroup().orElse(null));
        own.put("born", message.getBornTimestamp());
        own.put("at", System.currentTimeMillis());
        own.put("ms", (System.nanoTime() - began) / 1_000_000);
        messages.add(own);
        notifyAll();
    }

    /** Waits for so many messages, but no longer than this, and takes what there is. */
    synchronized List<Map<String, Object>> take(int count, long millis) throws InterruptedException {
        long end = System.nanoTime() + millis * 1_000_000;
        while (messages.size() < count) {
            long left = (end - System.nanoTime()) / 1_000_000;
            if (left <= 0) {
                break;
            }
            wait(left);
        }
        List<Map<String, Object>> taken = new ArrayList<>(messages);
        messages.clear();
        return taken;
    }
}
