package com.acme.dubbo;

import com.acme.Calls;
import com.acme.Console;
import com.acme.Greeter;
import com.acme.GreeterService;
import com.acme.Load;
import com.acme.Order;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.MetadataReportConfig;
import org.apache.dubbo.config.MethodConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.rpc.RpcContext;
import org.apache.dubbo.rpc.service.EchoService;
import org.apache.dubbo.rpc.service.GenericService;

/** Provider and consumer of Dubbo; the same source for every generation of it. */
public final class Main {
    private static final Map<String, Object> REFERENCES = new ConcurrentHashMap<>();
    private static final Map<String, ServiceConfig<Greeter>> EXPORTS = new ConcurrentHashMap<>();

    private Main() {
    }

    public static void main(String[] args) throws Exception {
        Console.serve(Main::handle);
    }

    private static Object handle(String operation, Map<String, String> fields) throws Throwable {
        switch (operation) {
            case "export":
                return export(fields);
            case "unexport":
                EXPORTS.remove(fields.get("name")).unexport();
                return null;
            case "call":
                return call(fields);
            case "generic":
                return generic(fields);
            case "ping":
                return ((EchoService) greeter(fields)).$echo(fields.get("arg"));
            case "load":
                return Load.run(greeter(fields), fields);
            default:
                throw new IllegalArgumentException("unknown operation " + operation);
        }
    }

    private static ApplicationConfig application(Map<String, String> fields) {
        ApplicationConfig application =
                new ApplicationConfig(fields.getOrDefault("application", "acme-peer"));
        application.setQosEnable(false);
        if (fields.containsKey("metadata-type")) {
            application.setMetadataType(fields.get("metadata-type"));
        }
        return application;
    }

    private static RegistryConfig registry(Map<String, String> fields) {
        if (!fields.containsKey("registry")) {
            return new RegistryConfig("N/A");
        }
        String address = fields.get("registry");
        RegistryConfig registry = new RegistryConfig(
                address.contains("://") ? address : "zookeeper://" + address);
        // Interface level unless asked for otherwise: "instance" or "all".
        Map<String, String> parameters = new HashMap<>();
        parameters.put("register-mode", fields.getOrDefault("mode", "interface"));
        // A consumer looks at both levels unless asked for "service", which is the application's.
        if (fields.containsKey("registry-type")) {
            parameters.put("registry-type", fields.get("registry-type"));
        }
        registry.setParameters(parameters);
        return registry;
    }

    private static Object export(Map<String, String> fields) {
        ProtocolConfig protocol =
                new ProtocolConfig(
                        fields.getOrDefault("protocol", "dubbo"),
                        Integer.parseInt(fields.get("port")));
        if (fields.containsKey("serialization")) {
            protocol.setSerialization(fields.get("serialization"));
        }
        if (fields.containsKey("context")) {
            protocol.setContextpath(fields.get("context"));
        }
        if (fields.containsKey("threads")) {
            protocol.setThreadpool("fixed");
            protocol.setThreads(Integer.parseInt(fields.get("threads")));
            protocol.setQueues(0);
        }
        String name = fields.get("name");
        ServiceConfig<Greeter> service = new ServiceConfig<>();
        service.setApplication(application(fields));
        service.setRegistry(registry(fields));
        service.setProtocol(protocol);
        service.setInterface(Greeter.class);
        service.setVersion(fields.get("version"));
        service.setGroup(fields.get("group"));
        service.setScope("remote");
        if (fields.containsKey("tag")) {
            service.setTag(fields.get("tag"));
        }
        if (fields.containsKey("token")) {
            service.setToken(fields.get("token"));
        }
        if (fields.containsKey("weight")) {
            service.setWeight(Integer.parseInt(fields.get("weight")));
        }
        // Fields that begin with "?" are what the provider says of itself.
        Map<String, String> parameters = new HashMap<>();
        fields.forEach((key, value) -> {
            if (key.startsWith("?")) {
                parameters.put(key.substring(1), value);
            }
        });
        service.setParameters(parameters);
        if (fields.containsKey("path")) {
            service.setPath(fields.get("path"));
        }
        if (fields.containsKey("metadata-type")) {
            service.setMetadataReportConfig(
                    new MetadataReportConfig("zookeeper://" + fields.get("registry")));
        }
        service.setRef(new GreeterService(name, key -> RpcContext.getContext().getAttachment(key)));
        service.export();
        EXPORTS.put(name, service);
        return "exported " + name;
    }

    private static Object call(Map<String, String> fields) throws Throwable {
        Greeter greeter = greeter(fields);
        attach(fields);
        return Calls.run(greeter, fields);
    }

    private static Object generic(Map<String, String> fields) {
        GenericService service = (GenericService) reference(fields, true);
        attach(fields);
        if ("echo".equals(fields.get("method"))) {
            Order sample = Order.sample();
            return service.$invoke(
                    "echo", new String[] {Order.class.getName()}, new Object[] {sample.toMap()});
        }
        return service.$invoke(
                fields.get("method"),
                new String[] {String.class.getName()},
                new Object[] {fields.get("arg")});
    }

    /** Fields that begin with "@" travel as attachments. */
    private static void attach(Map<String, String> fields) {
        fields.forEach((key, value) -> {
            if (key.startsWith("@")) {
                RpcContext.getContext().setAttachment(key.substring(1), value);
            }
        });
    }

    private static Greeter greeter(Map<String, String> fields) {
        return (Greeter) reference(fields, false);
    }

    private static Object reference(Map<String, String> fields, boolean generic) {
        String key = generic + "|" + fields.get("url") + "|" + fields.get("registry") + "|"
                + fields.get("version") + "|" + fields.get("group") + "|" + fields.get("timeout")
                + "|" + fields.get("retries") + "|" + fields.get("interface") + "|"
                + fields.get("bare");
        return REFERENCES.computeIfAbsent(key, k -> refer(fields, generic));
    }

    private static Object refer(Map<String, String> fields, boolean generic) {
        ReferenceConfig<Object> reference = new ReferenceConfig<>();
        reference.setApplication(application(fields));
        if (fields.containsKey("registry")) {
            reference.setRegistry(registry(fields));
        } else {
            reference.setUrl(fields.get("url"));
        }
        if (generic) {
            reference.setGeneric("true");
        }
        reference.setInterface(fields.getOrDefault("interface", Greeter.class.getName()));
        reference.setVersion(fields.get("version"));
        reference.setGroup(fields.get("group"));
        // A bare consumer goes by what the provider says.
        if (!fields.containsKey("bare")) {
            reference.setTimeout(Integer.parseInt(fields.getOrDefault("timeout", "5000")));
            reference.setRetries(Integer.parseInt(fields.getOrDefault("retries", "0")));
        }
        // The application level is found by what a metadata report tells.
        if (fields.containsKey("registry-type")) {
            reference.setMetadataReportConfig(
                    new MetadataReportConfig("zookeeper://" + fields.get("registry")));
        }
        reference.setCheck(false);
        reference.setScope("remote");
        MethodConfig note = new MethodConfig();
        note.setName("note");
        note.setReturn(false);
        List<MethodConfig> methods = new ArrayList<>();
        methods.add(note);
        reference.setMethods(methods);
        return reference.get();
    }
}
