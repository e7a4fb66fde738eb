package com.acme.sofa;

import com.acme.Calls;
import com.acme.Console;
import com.acme.Greeter;
import com.acme.GreeterService;
import com.acme.Load;
import com.alipay.remoting.BizContext;
import com.alipay.remoting.rpc.RpcClient;
import com.alipay.remoting.rpc.RpcServer;
import com.alipay.remoting.rpc.protocol.SyncUserProcessor;
import com.alipay.sofa.rpc.api.GenericService;
import com.alipay.sofa.rpc.api.future.SofaResponseFuture;
import com.alipay.sofa.rpc.common.RpcConfigs;
import com.alipay.sofa.rpc.config.ApplicationConfig;
import com.alipay.sofa.rpc.config.ConsumerConfig;
import com.alipay.sofa.rpc.config.ProviderConfig;
import com.alipay.sofa.rpc.config.RegistryConfig;
import com.alipay.sofa.rpc.config.ServerConfig;
import com.alipay.sofa.rpc.context.RpcInvokeContext;
import com.alipay.sofa.rpc.context.RpcInternalContext;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/** Provider and consumer of SOFA-RPC, and a pair of plain Bolt applications. */
public final class Main {
    private static final Map<String, Object> REFERENCES = new ConcurrentHashMap<>();
    private static final Map<String, ProviderConfig<Greeter>> EXPORTS = new ConcurrentHashMap<>();
    private static final Map<String, ServerConfig> SERVERS = new ConcurrentHashMap<>();
    private static RpcClient plainClient;

    private Main() {
    }

    public static void main(String[] args) throws Exception {
        RpcConfigs.putValue("invoke.baggage.enable", true);
        Console.serve(Main::handle);
    }

    private static Object handle(String operation, Map<String, String> fields) throws Throwable {
        switch (operation) {
            case "export":
                return export(fields);
            case "unexport":
                EXPORTS.remove(fields.get("name")).unExport();
                return null;
            case "call":
                return call(fields);
            case "future":
                greeter(fields, "future").sayHello(fields.get("arg"));
                return SofaResponseFuture.getResponse(5000, true);
            case "generic":
                return ((GenericService) reference(fields, "sync", true)).$invoke(
                        fields.get("method"),
                        new String[] {String.class.getName()},
                        new Object[] {fields.get("arg")});
            case "load":
                return Load.run(greeter(fields, "sync"), fields);
            case "plain-server":
                return plainServer(fields);
            case "plain-call":
                return plainCall(fields);
            default:
                throw new IllegalArgumentException("unknown operation " + operation);
        }
    }

    private static RegistryConfig registry(Map<String, String> fields) {
        return new RegistryConfig()
                .setProtocol(fields.getOrDefault("registry-protocol", "zookeeper"))
                .setAddress(fields.get("registry"));
    }

    private static Object export(Map<String, String> fields) {
        String name = fields.get("name");
        ServerConfig server = SERVERS.computeIfAbsent(fields.get("port"), port -> {
            ServerConfig config = new ServerConfig()
                    .setProtocol("bolt")
                    .setHost("0.0.0.0")
                    .setPort(Integer.parseInt(port))
                    .setVirtualHost(fields.get("host"))
                    .setDaemon(true);
            if (fields.containsKey("threads")) {
                config.setCoreThreads(Integer.parseInt(fields.get("threads")));
                config.setMaxThreads(Integer.parseInt(fields.get("threads")));
                config.setQueues(0);
            }
            return config;
        });
        ProviderConfig<Greeter> provider = new ProviderConfig<Greeter>()
                .setApplication(new ApplicationConfig().setAppName("acme-provider"))
                .setInterfaceId(Greeter.class.getName())
                .setRef(new GreeterService(name, Main::baggage))
                .setRepeatedExportLimit(-1)
                .setServer(server);
        if (fields.containsKey("registry")) {
            provider.setRegistry(registry(fields));
        }
        if (fields.containsKey("group")) {
            provider.setUniqueId(fields.get("group"));
        }
        // What the provider says of itself.
        if (fields.containsKey("timeout")) {
            provider.setTimeout(Integer.parseInt(fields.get("timeout")));
        }
        if (fields.containsKey("weight")) {
            provider.setWeight(Integer.parseInt(fields.get("weight")));
        }
        provider.export();
        EXPORTS.put(name, provider);
        return "exported " + name;
    }

    private static String baggage(String key) {
        return RpcInvokeContext.getContext().getRequestBaggage(key);
    }

    private static Object call(Map<String, String> fields) throws Throwable {
        Greeter greeter =
                greeter(fields, "note".equals(fields.get("method")) ? "oneway" : "sync");
        // Fields that begin with "@" travel as baggage.
        fields.forEach((key, value) -> {
            if (key.startsWith("@")) {
                RpcInvokeContext.getContext().putRequestBaggage(key.substring(1), value);
            }
        });
        try {
            return Calls.run(greeter, fields);
        } finally {
            RpcInvokeContext.removeContext();
            RpcInternalContext.removeAllContext();
        }
    }

    private static Greeter greeter(Map<String, String> fields, String type) {
        return (Greeter) reference(fields, type, false);
    }

    private static Object reference(Map<String, String> fields, String type, boolean generic) {
        String key = type + "|" + generic + "|" + fields.get("url") + "|" + fields.get("registry")
                + "|" + fields.get("group") + "|" + fields.get("timeout") + "|" + fields.get("app") + "|" + fields.get("interface")
                + "|" + fields.get("bare");
        return REFERENCES.computeIfAbsent(key, k -> refer(fields, type, generic));
    }

    private static Object refer(Map<String, String> fields, String type, boolean generic) {
        ConsumerConfig<Object> consumer = new ConsumerConfig<>()
                .setApplication(new ApplicationConfig()
                        .setAppName(fields.getOrDefault("app", "acme-consumer")))
                .setInterfaceId(fields.getOrDefault("interface", Greeter.class.getName()))
                .setProtocol("bolt")
                .setInvokeType(type)
                .setConnectTimeout(5000)
                .setRepeatedReferLimit(-1)
                .setGeneric(generic);
        // A bare consumer goes by what the provider says.
        if (!fields.containsKey("bare")) {
            consumer.setTimeout(Integer.parseInt(fields.getOrDefault("timeout", "5000")));
        }
        if (fields.containsKey("group")) {
            consumer.setUniqueId(fields.get("group"));
        }
        if (fields.containsKey("registry")) {
            consumer.setRegistry(List.of(registry(fields)));
        } else {
            consumer.setDirectUrl(fields.get("url"));
        }
        return consumer.refer();
    }

    private static Object plainServer(Map<String, String> fields) {
        RpcServer server = new RpcServer("0.0.0.0", Integer.parseInt(fields.get("port")));
        server.registerUserProcessor(new SyncUserProcessor<Plain>() {
            @Override
            public Object handleRequest(BizContext context, Plain request) {
                return new Plain("plain " + request.text());
            }

            @Override
            public String interest() {
                return Plain.class.getName();
            }
        });
        server.startup();
        return "started";
    }

    private static synchronized Object plainCall(Map<String, String> fields) throws Exception {
        if (plainClient == null) {
            plainClient = new RpcClient();
            plainClient.startup();
        }
        Object answer = plainClient.invokeSync(fields.get("url"), new Plain(fields.get("arg")), 5000);
        return ((Plain) answer).text();
    }
}
