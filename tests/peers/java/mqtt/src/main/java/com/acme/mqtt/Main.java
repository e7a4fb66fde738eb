package com.acme.mqtt;

import com.acme.Console;
import com.hivemq.client.mqtt.MqttGlobalPublishFilter;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt3.Mqtt3BlockingClient;
import com.hivemq.client.mqtt.mqtt3.Mqtt3Client;
import com.hivemq.client.mqtt.mqtt5.Mqtt5BlockingClient;
import com.hivemq.client.mqtt.mqtt5.Mqtt5Client;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5PublishResult;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.eclipse.paho.client.mqttv3.persist.MemoryPersistence;
import org.eclipse.paho.mqttv5.client.MqttConnectionOptions;

/** HiveMQ's and Paho's clients: each publishes to itself at every quality of service. */
public final class Main {
    private static final int PATIENCE = 20;

    private Main() {
    }

    public static void main(String[] args) throws Exception {
        Console.serve(Main::handle);
    }

    private static Object handle(String operation, Map<String, String> fields) throws Throwable {
        String host = fields.get("host");
        int port = Integer.parseInt(fields.get("port"));
        switch (operation) {
            case "hivemq5":
                return hivemq5(host, port);
            case "hivemq3":
                return hivemq3(host, port);
            case "paho5":
                return paho5(host, port);
            case "paho3":
                return paho3(host, port);
            default:
                throw new IllegalArgumentException(operation);
        }
    }

    private static byte[] payload(int qos) {
        return ("at " + qos).getBytes(StandardCharsets.UTF_8);
    }

    private static Object hivemq5(String host, int port) throws Exception {
        Mqtt5BlockingClient client = Mqtt5Client.builder()
                .identifier("hivemq5").serverHost(host).serverPort(port).buildBlocking();
        client.connectWith().keepAlive(30).restrictions().receiveMaximum(10).topicAliasMaximum(5)
                .applyRestrictions().send();
        List<String> heard = new ArrayList<>();
        try (Mqtt5BlockingClient.Mqtt5Publishes messages = client.publishes(MqttGlobalPublishFilter.ALL)) {
            client.subscribeWith().topicFilter("hivemq/5/#").qos(MqttQos.EXACTLY_ONCE).send();
            for (int qos = 0; qos < 3; qos++) {
                Mqtt5PublishResult result = client.publishWith().topic("hivemq/5/a").payload(payload(qos))
                        .qos(MqttQos.fromCode(qos)).userProperties().add("n", "" + qos)
                        .applyUserProperties().send();
                if (result.getError().isPresent()) {
                    throw new IllegalStateException(result.getError().get());
                }
                Mqtt5Publish message = messages.receive(PATIENCE, TimeUnit.SECONDS).orElseThrow();
                heard.add(new String(message.getPayloadAsBytes(), StandardCharsets.UTF_8) + " "
                        + message.getUserProperties().asList().get(0).getValue());
            }
        }
        client.disconnect();
        return String.join(", ", heard);
    }

    private static Object hivemq3(String host, int port) throws Exception {
        Mqtt3BlockingClient client = Mqtt3Client.builder()
                .identifier("hivemq3").serverHost(host).serverPort(port).buildBlocking();
        client.connect();
        List<String> heard = new ArrayList<>();
        try (Mqtt3BlockingClient.Mqtt3Publishes messages = client.publishes(MqttGlobalPublishFilter.ALL)) {
            client.subscribeWith().topicFilter("hivemq/3/#").qos(MqttQos.EXACTLY_ONCE).send();
            for (int qos = 0; qos < 3; qos++) {
                client.publishWith().topic("hivemq/3/a").payload(payload(qos)).qos(MqttQos.fromCode(qos)).send();
                byte[] got = messages.receive(PATIENCE, TimeUnit.SECONDS).orElseThrow().getPayloadAsBytes();
                heard.add(new String(got, StandardCharsets.UTF_8));
            }
        }
        client.disconnect();
        return String.join(", ", heard);
    }

    private static Object paho5(String host, int port) throws Exception {
        BlockingQueue<String> queue = new LinkedBlockingQueue<>();
        var client = new org.eclipse.paho.mqttv5.client.MqttClient("tcp://" + host + ":" + port, "paho5",
                new org.eclipse.paho.mqttv5.client.persist.MemoryPersistence());
        MqttConnectionOptions options = new MqttConnectionOptions();
        options.setCleanStart(true);
        client.connect(options);
        client.subscribe("paho/5/#", 2);
        client.setCallback(new Listener(queue));
        List<String> heard = new ArrayList<>();
        for (int qos = 0; qos < 3; qos++) {
            client.publish("paho/5/a", payload(qos), qos, false);
            heard.add(String.valueOf(queue.poll(PATIENCE, TimeUnit.SECONDS)));
        }
        client.disconnect();
        client.close();
        return String.join(", ", heard);
    }

    private static Object paho3(String host, int port) throws Exception {
        BlockingQueue<String> queue = new LinkedBlockingQueue<>();
        var client = new org.eclipse.paho.client.mqttv3.MqttClient("tcp://" + host + ":" + port, "paho3",
                new MemoryPersistence());
        client.connect();
        client.subscribe("paho/3/#", 2,
                (topic, message) -> queue.add(new String(message.getPayload(), StandardCharsets.UTF_8)));
        List<String> heard = new ArrayList<>();
        for (int qos = 0; qos < 3; qos++) {
            client.publish("paho/3/a", payload(qos), qos, false);
            heard.add(String.valueOf(queue.poll(PATIENCE, TimeUnit.SECONDS)));
        }
        client.disconnect();
        client.close();
        return String.join(", ", heard);
    }
}
