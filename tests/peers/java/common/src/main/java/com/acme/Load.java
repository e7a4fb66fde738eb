package com.acme;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicLong;

/** Calls a service from several threads and counts how it went. */
public final class Load {
    private Load() {
    }

    public static Map<String, Object> run(Greeter greeter, Map<String, String> fields)
            throws InterruptedException {
        int threads = Integer.parseInt(fields.getOrDefault("threads", "4"));
        long end = System.nanoTime() + Long.parseLong(fields.get("millis")) * 1_000_000;
        long pause = Long.parseLong(fields.getOrDefault("pause", "1"));
        // Ends at the first error where the caller expects the connection to go away.
        boolean stop = "true".equals(fields.get("stop"));
        AtomicLong right = new AtomicLong();
        AtomicLong wrong = new AtomicLong();
        Map<String, Integer> errors = new TreeMap<>();
        Map<String, Integer> who = new TreeMap<>();
        List<Thread> all = new ArrayList<>();
        for (int t = 0; t < threads; t++) {
            int seed = t * 1_000_000;
            Thread thread = new Thread(() -> {
                for (int i = 0; System.nanoTime() < end; i++) {
                    try {
                        if (i % 4 == 0) {
                            String name = greeter.who();
                            synchronized (who) {
                                who.merge(name, 1, Integer::sum);
                            }
                        }
                        int sum = greeter.add(seed + i, 1);
                        (sum == seed + i + 1 ? right : wrong).incrementAndGet();
                        Thread.sleep(pause);
                    } catch (Throwable error) {
                        String text = error.getClass().getName() + ": " + error.getMessage();
                        synchronized (errors) {
                            errors.merge(text.substring(0, Math.min(300, text.length())), 1, Integer::sum);
                        }
                        if (stop) {
                            return;
                        }
                    }
                }
            });
            thread.start();
            all.add(thread);
        }
        for (Thread thread : all) {
            thread.join();
        }
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("right", right.get());
        map.put("wrong", wrong.get());
        map.put("errors", errors);
        map.put("who", who);
        return map;
    }
}
