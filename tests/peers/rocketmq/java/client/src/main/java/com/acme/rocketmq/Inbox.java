package com.acme.rocketmq;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.common.message.MessageExt;

/** What a consumer has been given, in the order in which it was. */
final class Inbox {
    private final long began = System.nanoTime();
    private final List<Map<String, Object>> messages = new ArrayList<>();

    synchronized void add(MessageExt message) {
        Map<String, Object> own = new LinkedHashMap<>();
        own.put("key", message.getKeys());
        own.put("topic", message.getTopic());
        own.put("tag", message.getTags());
        own.put("hash", Body.hash(message.getBody()));
        own.put("size", message.getBody().length);
        own.put("queue", message.getQueueId());
        own.put("offset", message.getQueueOffset());
        own.put("tries", message.getReconsumeTimes());
        own.put("id", message.getMsgId());
        own.put("properties", properties(message.getProperties()));
        own.put("born", message.getBornTimestamp());
        own.put("at", System.currentTimeMillis());
        own.put("ms", (System.nanoTime() - began) / 1_000_000);
        messages.add(own);
        notifyAll();
    }

    /** The properties that an application set: the system's own begin with a capital or a line. */
    static Map<String, String> properties(Map<String, String> all) {
        Map<String, String> own = new TreeMap<>(all);
        own.keySet().removeIf(name -> !Character.isLowerCase(name.charAt(0)));
        return own;
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
