package sluice.clients;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** Runs scenarios one after another; prints PASS or FAIL for each; exits with 1 if one failed, 2 for a wrong command line. --list prints their names only. */
public final class Main {
    private static final Map<String, Scenario> SCENARIOS = new LinkedHashMap<>();

    static {
        SCENARIOS.put("sync-send", Sends::sync);
        SCENARIOS.put("async-send", Sends::async);
        SCENARIOS.put("async-send-cut", Failures::asyncCut);
        SCENARIOS.put("oneway", Sends::oneway);
        SCENARIOS.put("batch", Sends::batch);
        SCENARIOS.put("selector", Sends::selector);
        SCENARIOS.put("retry-sync", Failures::retrySync);
        SCENARIOS.put("retry-async", Failures::retryAsync);
        SCENARIOS.put("retry-to-dead-letter", Consumes::deadLetter);
        SCENARIOS.put("orderly-rebalance", Orderly::rebalance);
        SCENARIOS.put("broadcast", Consumes::broadcast);
        SCENARIOS.put("tags", Consumes::tags);
        SCENARIOS.put("delay-levels", Consumes::delayLevels);
        SCENARIOS.put("transaction", Transactions::run);
        SCENARIOS.put("litepull-seek", Reads::litePullSeek);
        SCENARIOS.put("reset-offset", Consumes::resetOffset);
        SCENARIOS.put("query", Reads::query);
        SCENARIOS.put("million", Million::run);
    }

    private Main() {}

    public static void main(String[] arguments) throws Exception {
        if (arguments.length == 1 && arguments[0].equals("--list")) {
            SCENARIOS.keySet().forEach(System.out::println);
            return;
        }
        // The client rebalances each 20 s by default; shorter keeps the run short.
        System.setProperty("rocketmq.client.rebalance.waitInterval", "2000");
        // A queue that is given up while messages of it wait in the client stays locked for 20 s by default.
        System.setProperty("rocketmq.client.unlockDelayTimeMills", "1000");
        Options options;
        try {
            options = Options.parse(arguments);
            for (String name : options.only) {
                if (!SCENARIOS.containsKey(name)) {
                    throw new IllegalArgumentException("unknown scenario " + name + "; known: " + SCENARIOS.keySet());
                }
            }
        } catch (IllegalArgumentException e) {
            System.err.println(e.getMessage());
            System.exit(2);
            return;
        }
        awaitBroker(options);
        int passed = 0;
        int failed = 0;
        for (Map.Entry<String, Scenario> entry : SCENARIOS.entrySet()) {
            if (!options.only.isEmpty() && !options.only.contains(entry.getKey())) {
                continue;
            }
            long start = System.nanoTime();
            String failure = run(entry.getKey(), entry.getValue(), options);
            long millis = (System.nanoTime() - start) / 1_000_000;
            if (failure == null) {
                passed++;
                System.out.println("PASS " + entry.getKey() + " (" + millis + ")");
            } else {
                failed++;
                System.out.println("FAIL " + entry.getKey() + ": " + failure);
            }
        }
        System.out.println(passed + " passed, " + failed + " failed");
        System.out.flush();
        // Client threads are not all daemons; the run is over.
        Runtime.getRuntime().halt(failed == 0 && passed > 0 ? 0 : 1);
    }

    /** A broker registers with its name server some time after both have started. */
    private static void awaitBroker(Options options) throws InterruptedException {
        try (Bench bench = new Bench(options, "start")) {
            Check.eventually(30_000, "a broker at the name server " + options.namesrv, () -> !bench.brokerAddresses().isEmpty());
        } catch (Check.Failed e) {
            System.out.println("FAIL start: " + e.getMessage());
            System.exit(1);
        }
    }

    /** Null, or why it failed. */
    private static String run(String name, Scenario scenario, Options options) throws InterruptedException {
        ExecutorService thread = Executors.newSingleThreadExecutor();
        Bench bench = new Bench(options, name);
        try {
            Future<?> result = thread.submit(() -> {
                scenario.run(bench);
                return null;
            });
            result.get(options.deadlineSeconds, TimeUnit.SECONDS);
            return null;
        } catch (TimeoutException e) {
            thread.shutdownNow();
            return "not done after " + options.deadlineSeconds + " s";
        } catch (ExecutionException e) {
            Throwable cause = e.getCause();
            if (!(cause instanceof Check.Failed)) {
                cause.printStackTrace();
            }
            return (cause instanceof Check.Failed ? cause.getMessage() : cause.toString()).replace('\n', ' ');
        } finally {
            thread.shutdown();
            bench.close();
        }
    }
}
