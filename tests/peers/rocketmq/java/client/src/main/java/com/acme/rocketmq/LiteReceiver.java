package com.acme.rocketmq;

import java.util.Collection;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/** A consumer by lite pull, which version 4.4.0 has not: it polls all the time, and commits after each poll. */
final class LiteReceiver extends Receiver {
    private final Object consumer;
    private final Thread polling;
    private volatile boolean isOpen = true;

    LiteReceiver(Map<String, String> fields) throws Exception {
        consumer = Late.create("org.apache.rocketmq.client.consumer.DefaultLitePullConsumer",
                fields.get("group"), Options.hook(fields));
        Options.apply((ClientConfig) consumer, fields);
        Late.call(consumer, "setAutoCommit", false);
        Late.call(consumer, "setConsumeFromWhere", ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        String topic = fields.get("topic");
        boolean isAssigned = Options.isOn(fields, "assign");
        if (!isAssigned) {
            Late.call(consumer, "subscribe", topic, fields.getOrDefault("tags", "*"));
        }
        Late.call(consumer, "start");
        if (isAssigned) {
            Collection<?> queues = (Collection<?>) Late.call(consumer, "fetchMessageQueues", topic);
            // Not sought besides: what was pulled before would come twice.
            Late.call(consumer, "assign", queues);
        }
        polling = new Thread(this::poll);
        polling.setDaemon(true);
        polling.start();
    }

    private void poll() {
        try {
            while (isOpen) {
                List<?> messages = (List<?>) Late.call(consumer, "poll", 500L);
                messages.forEach(message -> inbox.add((MessageExt) message));
                if (!messages.isEmpty()) {
                    Late.call(consumer, "commitSync");
                }
            }
        } catch (Exception error) {
            error.printStackTrace();
        }
    }

    @Override
    void close() throws Exception {
        isOpen = false;
        polling.join(5_000);
        Late.call(consumer, "shutdown");
    }
}
