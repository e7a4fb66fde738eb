package com.acme.rocketmq;

import java.util.Map;
import org.apache.rocketmq.acl.common.AclClientRPCHook;
import org.apache.rocketmq.acl.common.SessionCredentials;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.remoting.RPCHook;

/** What producers and consumers are set up with alike. */
final class Options {
    private Options() {
    }

    static boolean isOn(Map<String, String> fields, String name) {
        return "true".equals(fields.get(name));
    }

    /** Signs each request, if a key is given. */
    static RPCHook hook(Map<String, String> fields) {
        String access = fields.get("access");
        return access == null ? null
                : new AclClientRPCHook(new SessionCredentials(access, fields.get("secret")));
    }

    static void apply(ClientConfig client, Map<String, String> fields) {
        String names = fields.get("names");
        if (names.startsWith("http://")) {
            // A client that is told of no name server asks this host for a list of them.
            System.setProperty("rocketmq.namesrv.domain", names.substring("http://".length()));
        } else {
            client.setNamesrvAddr(names);
        }
        // One connection each, as if each were a process of its own.
        client.setInstanceName(fields.get("name") + "@" + System.nanoTime());
        if (fields.containsKey("vip")) {
            client.setVipChannelEnabled(isOn(fields, "vip"));
        }
        if (fields.containsKey("tls")) {
            client.setUseTLS(isOn(fields, "tls"));
        }
        if (fields.containsKey("poll")) {
            client.setPollNameServerInterval(Integer.parseInt(fields.get("poll")));
        }
        if (fields.containsKey("heartbeat")) {
            client.setHeartbeatBrokerInterval(Integer.parseInt(fields.get("heartbeat")));
        }
    }
}
