package com.acme.rocketmq;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** A consumer by push, by POP, or by lite pull. */
class Receiver {
    final Inbox inbox = new Inbox();
    private DefaultMQPushConsumer consumer;
    private DefaultMQProducer replies;
    /** How many times a message is to be refused before it is taken. */
    private int failures;
    /** How long each message takes. */
    private long hold;

    static Receiver open(Map<String, String> fields) throws Exception {
        if ("lite".equals(fields.get("how"))) {
            return new LiteReceiver(fields);
        }
        Receiver receiver = new Receiver();
        receiver.push(fields);
        return receiver;
    }

    private void push(Map<String, String> fields) throws Exception {
        failures = Integer.parseInt(fields.getOrDefault("fail", "0"));
        hold = Long.parseLong(fields.getOrDefault("hold", "0"));
        consumer = new DefaultMQPushConsumer(fields.get("group"), Options.hook(fields),
                new AllocateMessageQueueAveragely(), Options.isOn(fields, "trace"), null);
        Options.apply(consumer, fields);
        consumer.setConsumeFromWhere("last".equals(fields.get("from"))
                ? ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET : ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        if (Options.isOn(fields, "broadcasting")) {
            Late.choose(consumer, "setMessageModel", "BROADCASTING");
        }
        if ("pop".equals(fields.get("how"))) {
            Late.call(consumer, "setClientRebalance", false);
        }
        if (fields.containsKey("sql")) {
            consumer.subscribe(fields.get("topic"), MessageSelector.bySql(fields.get("sql")));
        } else {
            consumer.subscribe(fields.get("topic"), fields.getOrDefault("tags", "*"));
        }
        if (Options.isOn(fields, "reply")) {
            replies = new DefaultMQProducer(fields.get("group") + "-replies", Options.hook(fields));
            Options.apply(replies, fields);
            replies.start();
        }
        if ("orderly".equals(fields.get("how"))) {
            orderly();
        } else {
            concurrently();
        }
        consumer.start();
    }

    private void orderly() {
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            context.setSuspendCurrentQueueTimeMillis(500);
            return hear(messages) ? ConsumeOrderlyStatus.SUCCESS
                    : ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
        });
    }

    private void concurrently() {
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            // A second, instead of the usual ten.
            context.setDelayLevelWhenNextConsume(1);
            return hear(messages) ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS
                    : ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
    }

    private boolean hear(List<MessageExt> messages) {
        boolean isTaken = true;
        for (MessageExt message : messages) {
            inbox.add(message);
            isTaken &= message.getReconsumeTimes() >= failures;
            if (replies != null) {
                reply(message);
            }
        }
        if (hold > 0) {
            try {
                Thread.sleep(hold);
            } catch (InterruptedException e) {
                return false;
            }
        }
        return isTaken;
    }

    private void reply(MessageExt message) {
        try {
            byte[] body = ("reply to " + message.getKeys()).getBytes(StandardCharsets.UTF_8);
            Class<?> util = Class.forName("org.apache.rocketmq.client.utils.MessageUtil");
            replies.send((Message) Late.call(util, "createReplyMessage", message, body));
        } catch (Exception error) {
            // The requester's timeout tells of it.
            error.printStackTrace();
        }
    }

    void close() throws Exception {
        consumer.shutdown();
        if (replies != null) {
            replies.shutdown();
        }
    }
}
