package sluice.clients;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageExt;

/** One owner per queue, also while consumers come and go. */
final class Orderly {
    private static final int QUEUES = 6;

    private record Seen(int queue, int number, int consumer, long start, long end) {}

    private Orderly() {}

    /** Under load the group grows from one consumer to three and shrinks to two. */
    static void rebalance(Bench bench) throws Exception {
        String topic = bench.topic("topic", QUEUES);
        String group = bench.name("group");
        ConcurrentLinkedQueue<Seen> seen = new ConcurrentLinkedQueue<>();
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        consumers.add(consumer(bench, group, topic, 0, seen));

        AtomicBoolean stop = new AtomicBoolean();
        int[] sent = new int[QUEUES];
        Thread load = load(bench.producer(), topic, sent, stop);
        Check.eventually(20_000, "the first consumer consumes every queue", () -> queuesSince(seen, 0, 0).size() == QUEUES);

        consumers.add(consumer(bench, group, topic, 1, seen));
        consumers.add(consumer(bench, group, topic, 2, seen));
        Check.eventually(30_000, "three consumers share the queues", () -> share(seen, 0) == 2 && share(seen, 1) == 2 && share(seen, 2) == 2);
        Thread.sleep(1000);
        consumers.get(1).shutdown();
        // A lock whose release was lost on the way ends by itself after a minute; rebalancing comes on top.
        Check.eventually(90_000, "two consumers share the queues", () -> share(seen, 0) == 3 && share(seen, 1) == 0 && share(seen, 2) == 3);
        Thread.sleep(1000);
        stop.set(true);
        load.join(10_000);
        Check.that(!load.isAlive(), "the load did not stop");
        Check.eventually(20_000, "everything consumed", () -> {
            Map<Integer, Integer> last = new TreeMap<>();
            seen.forEach(one -> last.merge(one.queue, one.number + 1, Math::max));
            for (int queue = 0; queue < QUEUES; queue++) {
                if (last.getOrDefault(queue, 0) < sent[queue]) {
                    return false;
                }
            }
            return true;
        });
        verify(new ArrayList<>(seen), sent);
    }

    /** How many queues a consumer has had in the last second: every queue has load all the time. */
    private static int share(ConcurrentLinkedQueue<Seen> seen, int consumer) {
        return queuesSince(seen, consumer, System.nanoTime() - 1_000_000_000L).size();
    }

    private static Set<Integer> queuesSince(ConcurrentLinkedQueue<Seen> seen, int consumer, long since) {
        Set<Integer> queues = new HashSet<>();
        seen.stream().filter(one -> one.consumer == consumer && one.start > since).forEach(one -> queues.add(one.queue));
        return queues;
    }

    private static DefaultMQPushConsumer consumer(Bench bench, String group, String topic, int id, ConcurrentLinkedQueue<Seen> seen) throws Exception {
        DefaultMQPushConsumer consumer = bench.pushConsumer(group, topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            for (MessageExt message : messages) {
                long start = System.nanoTime();
                try {
                    Thread.sleep(1);
                } catch (InterruptedException e) {
                    return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                }
                seen.add(new Seen(message.getQueueId(), Integer.parseInt(Bench.body(message)), id, start, System.nanoTime()));
            }
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        return consumer;
    }

    private static Thread load(DefaultMQProducer producer, String topic, int[] sent, AtomicBoolean stop) {
        Thread thread = new Thread(() -> {
            try {
                while (!stop.get()) {
                    for (int queue = 0; queue < QUEUES; queue++) {
                        producer.send(Bench.message(topic, "tag", null, Integer.toString(sent[queue])),
                            (queues, message, wanted) -> queues.get((Integer) wanted), queue);
                        sent[queue]++;
                    }
                    Thread.sleep(5);
                }
            } catch (Exception e) {
                // The totals tell: what was not sent is not expected.
                System.err.println("orderly load stopped: " + e);
            }
        }, "orderly-load");
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    /** In the order of time each queue's numbers never skip ahead, and no two consumers hold a queue at once. */
    private static void verify(List<Seen> seen, int[] sent) {
        seen.sort(Comparator.comparingLong(Seen::start));
        int repeated = 0;
        for (int queue = 0; queue < QUEUES; queue++) {
            Seen previous = null;
            int next = 0;
            for (Seen one : seen) {
                if (one.queue != queue) {
                    continue;
                }
                Check.that(one.number <= next, "queue %s skipped from %s to %s", queue, next, one.number);
                if (previous != null) {
                    Check.that(one.start >= previous.end, "queue %s: consumers %s and %s worked at once", queue, previous.consumer, one.consumer);
                    boolean changed = previous.consumer != one.consumer;
                    Check.that(one.number == previous.number + 1 || changed, "queue %s went from %s to %s within one owner", queue, previous.number, one.number);
                }
                repeated += one.number < next ? 1 : 0;
                next = Math.max(next, one.number + 1);
                previous = one;
            }
            Check.equal(sent[queue], next, "messages of queue " + queue);
        }
        System.err.println("orderly: " + seen.size() + " consumed, " + repeated + " of them again after a change of owner");
    }
}
