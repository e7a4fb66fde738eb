package com.acme.registry;

import com.acme.Console;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.RetryForever;
import org.apache.curator.x.discovery.ServiceDiscovery;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;
import org.apache.curator.x.discovery.UriSpec;
import org.apache.curator.x.discovery.details.JsonInstanceSerializer;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.data.ACL;
import org.apache.zookeeper.data.Id;
import org.apache.zookeeper.data.Stat;
import org.apache.zookeeper.server.auth.DigestAuthenticationProvider;
import org.springframework.cloud.zookeeper.discovery.ZookeeperInstance;

/** What frameworks' own registry clients do: nodes, and instances as Spring Cloud writes them. */
public final class Main {
    private static final Map<String, CuratorFramework> CLIENTS = new ConcurrentHashMap<>();
    private static final Map<String, ServiceInstance<ZookeeperInstance>> INSTANCES =
            new ConcurrentHashMap<>();

    private Main() {
    }

    public static void main(String[] args) throws Exception {
        Console.serve(Main::handle);
    }

    private static Object handle(String operation, Map<String, String> fields) throws Throwable {
        CuratorFramework client = client(fields.get("registry"));
        String path = fields.get("path");
        byte[] data = fields.getOrDefault("data", "").getBytes(StandardCharsets.UTF_8);
        switch (operation) {
            case "create":
                client.create()
                        .creatingParentsIfNeeded()
                        .withMode("true".equals(fields.get("ephemeral"))
                                ? CreateMode.EPHEMERAL
                                : CreateMode.PERSISTENT)
                        .forPath(path, data);
                return "created";
            case "create-guarded":
                return createGuarded(client, path, fields);
            case "create-many":
                return createMany(client, path, fields);
            case "set":
                client.setData().forPath(path, data);
                return "set";
            case "delete":
                client.delete().deletingChildrenIfNeeded().forPath(path);
                return "deleted";
            case "get":
                return new String(client.getData().forPath(path), StandardCharsets.UTF_8);
            case "children":
                return client.checkExists().forPath(path) == null
                        ? List.of()
                        : client.getChildren().forPath(path);
            case "owner": {
                Stat stat = client.checkExists().forPath(path);
                return stat == null ? null : Long.toString(stat.getEphemeralOwner());
            }
            case "register":
                return register(client, fields);
            case "unregister":
                discovery(client).unregisterService(INSTANCES.remove(fields.get("id")));
                return "unregistered";
            case "instances":
                return instances(client, fields.get("service"));
            default:
                throw new IllegalArgumentException("unknown operation " + operation);
        }
    }

    private static CuratorFramework client(String address) {
        return CLIENTS.computeIfAbsent(address, key -> {
            CuratorFramework client =
                    CuratorFrameworkFactory.newClient(key, 4000, 4000, new RetryForever(100));
            client.start();
            return client;
        });
    }

    /** Makes a node in a folder that only one may read: a user with a password, or one of SASL. */
    private static Object createGuarded(
            CuratorFramework client, String path, Map<String, String> fields) throws Exception {
        client.create().creatingParentsIfNeeded().forPath(path);
        Id id = fields.containsKey("sasl")
                ? new Id("sasl", fields.get("sasl"))
                : new Id(
                        "digest",
                        DigestAuthenticationProvider.generateDigest(fields.get("digest")));
        ACL acl = new ACL(ZooDefs.Perms.ALL, id);
        client.setACL().withACL(List.of(acl)).forPath(path.substring(0, path.lastIndexOf('/')));
        return "created";
    }

    private static Object createMany(
            CuratorFramework client, String path, Map<String, String> fields) throws Exception {
        int count = Integer.parseInt(fields.get("count"));
        client.create().orSetData().creatingParentsIfNeeded().forPath(path);
        for (int i = 0; i < count; i++) {
            client.create().inBackground().forPath(path + "/" + fields.get("name") + i);
        }
        // Their names together are more than a client takes unless told to.
        int made = 0;
        for (int i = 0; i < 600 && made < count; i++) {
            Thread.sleep(100);
            made = client.checkExists().forPath(path).getNumChildren();
        }
        return made;
    }

    private static ServiceDiscovery<ZookeeperInstance> discovery(CuratorFramework client)
            throws Exception {
        return ServiceDiscoveryBuilder.builder(ZookeeperInstance.class)
                .client(client)
                .basePath("/services")
                .serializer(new JsonInstanceSerializer<>(ZookeeperInstance.class))
                .build();
    }

    private static Object register(CuratorFramework client, Map<String, String> fields)
            throws Exception {
        String service = fields.get("service");
        Map<String, String> metadata = new ConcurrentHashMap<>();
        metadata.put("instance_status", fields.getOrDefault("status", "UP"));
        fields.forEach((key, value) -> {
            if (key.startsWith("@")) {
                metadata.put(key.substring(1), value);
            }
        });
        ServiceInstance<ZookeeperInstance> instance = ServiceInstance.<ZookeeperInstance>builder()
                .name(service)
                .id(fields.get("id"))
                .address(fields.get("host"))
                .port(Integer.parseInt(fields.get("port")))
                .uriSpec(new UriSpec("{scheme}://{address}:{port}"))
                .payload(new ZookeeperInstance("application-1", service, metadata))
                .build();
        ServiceInstance<ZookeeperInstance> before = INSTANCES.put(fields.get("id"), instance);
        if (before == null) {
            discovery(client).registerService(instance);
        } else {
            client.setData().forPath(
                    "/services/" + service + "/" + instance.getId(),
                    new JsonInstanceSerializer<>(ZookeeperInstance.class).serialize(instance));
        }
        return "registered";
    }

    private static Object instances(CuratorFramework client, String service) throws Exception {
        Collection<ServiceInstance<ZookeeperInstance>> all =
                discovery(client).queryForInstances(service);
        List<String> found = new ArrayList<>();
        for (ServiceInstance<ZookeeperInstance> instance : all) {
            found.add(instance.getAddress() + ":" + instance.getPort());
        }
        return found;
    }
}
