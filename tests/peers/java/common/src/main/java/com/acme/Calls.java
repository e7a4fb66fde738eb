package com.acme;

import java.util.LinkedHashMap;
import java.util.Map;

/** One call of {@link Greeter} by name. */
public final class Calls {
    private Calls() {
    }

    public static Object run(Greeter greeter, Map<String, String> fields) throws Throwable {
        String argument = fields.getOrDefault("arg", "");
        switch (fields.get("method")) {
            case "sayHello":
                return greeter.sayHello(argument);
            case "echo":
                Order sample = Order.sample();
                Order back = greeter.echo(sample);
                Map<String, Object> map = new LinkedHashMap<>();
                map.put("same", sample.toMap().equals(back.toMap()));
                map.put("order", back);
                return map;
            case "add":
                String[] both = argument.split(",");
                return greeter.add(Integer.parseInt(both[0]), Integer.parseInt(both[1]));
            case "note":
                greeter.note(argument);
                return null;
            case "noted":
                return greeter.noted();
            case "fail":
                return greeter.fail(argument);
            case "sleep":
                return greeter.sleep(Integer.parseInt(argument));
            case "large":
                return greeter.large(Integer.parseInt(argument)).length();
            case "measure":
                return greeter.measure("y".repeat(Integer.parseInt(argument)));
            case "who":
                return greeter.who();
            case "attachment":
                return greeter.attachment(argument);
            case "nothing":
                return greeter.nothing();
            default:
                throw new IllegalArgumentException("unknown method " + fields.get("method"));
        }
    }
}
