package com.acme;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * Reads commands from standard input, one per line, as fields parted by tabs: an id, an operation
 * and {@code key=value} pairs. Answers each with one line of JSON, in any order. Ends the process
 * with the input.
 */
public final class Console {
    /** Carries out one command. */
    public interface Handler {
        Object handle(String operation, Map<String, String> fields) throws Throwable;
    }

    private Console() {
    }

    public static void serve(Handler handler) throws IOException {
        PrintStream out = System.out;
        // Frameworks that print shall not garble the answers.
        System.setOut(System.err);
        ExecutorService pool = Executors.newCachedThreadPool();
        BufferedReader in =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        say(out, "0", true, "value", "ready");
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] parts = line.split("\t", -1);
            Map<String, String> fields = new LinkedHashMap<>();
            for (int i = 2; i < parts.length; i++) {
                int at = parts[i].indexOf('=');
                fields.put(parts[i].substring(0, at), parts[i].substring(at + 1));
            }
            pool.execute(() -> {
                try {
                    say(out, parts[0], true, "value", handler.handle(parts[1], fields));
                } catch (Throwable error) {
                    say(out, parts[0], false, "error", describe(error));
                }
            });
        }
        Runtime.getRuntime().halt(0);
    }

    private static void say(PrintStream out, String id, boolean ok, String key, Object value) {
        String line = "{\"id\":" + id + ",\"ok\":" + ok + ",\"" + key + "\":" + Json.of(value) + "}";
        synchronized (out) {
            out.println(line);
            out.flush();
        }
    }

    private static Map<String, Object> describe(Throwable error) {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("class", error.getClass().getName());
        map.put("message", error.getMessage());
        map.put("code", code(error));
        List<String> causes = new ArrayList<>();
        for (Throwable cause = error.getCause();
                cause != null && causes.size() < 8;
                cause = cause.getCause()) {
            causes.add(cause.getClass().getName() + ": " + cause.getMessage());
        }
        map.put("causes", causes);
        return map;
    }

    /** What the frameworks sort their errors by, whatever they call it. */
    private static Object code(Throwable error) {
        for (String getter : new String[] {"getCode", "getErrorType"}) {
            try {
                return error.getClass().getMethod(getter).invoke(error);
            } catch (ReflectiveOperationException e) {
                // Not one of those.
            }
        }
        return null;
    }
}
