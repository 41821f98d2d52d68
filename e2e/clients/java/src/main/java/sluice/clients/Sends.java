package sluice.clients;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** The ways to send. */
final class Sends {
    private Sends() {}

    /** To a topic that does not exist yet: it is created on the first send. Large and empty-ish bodies come back unchanged. */
    static void sync(Bench bench) throws Exception {
        String topic = bench.name("auto");
        DefaultMQProducer producer = bench.producer();
        Map<String, Long> nextOffset = new HashMap<>();
        Set<String> sent = new HashSet<>();
        for (int i = 0; i < 200; i++) {
            // Over 4 KB the client compresses the body.
            String body = "message " + i + (i % 50 == 0 ? "-\u00fc\u4e2d".repeat(20_000) : "");
            Message message = Bench.message(topic, "tag", "key-" + i, body);
            message.putUserProperty("number", Integer.toString(i));
            SendResult result = producer.send(message);
            Check.equal(SendStatus.SEND_OK, result.getSendStatus(), "status of send " + i);
            String queue = result.getMessageQueue().toString();
            long expected = nextOffset.getOrDefault(queue, 0L);
            Check.equal(expected, result.getQueueOffset(), "queue offset of send " + i);
            nextOffset.put(queue, expected + 1);
            sent.add(body);
        }
        List<MessageExt> read = bench.drain(topic, 200, 300);
        Check.equal(200, read.size(), "messages read");
        Set<String> bodies = new HashSet<>();
        for (MessageExt message : read) {
            bodies.add(Bench.body(message));
            Check.equal("key-" + message.getUserProperty("number"), message.getKeys(), "keys");
            Check.equal("tag", message.getTags(), "tags");
        }
        Check.equal(sent.equals(bodies), true, "bodies read are the bodies sent");
    }

    static void async(Bench bench) throws Exception {
        String topic = bench.topic("topic", 4);
        DefaultMQProducer producer = bench.producer();
        int count = 2000;
        AtomicIntegerArray calls = new AtomicIntegerArray(count);
        AtomicInteger called = new AtomicInteger();
        AtomicReference<Throwable> failure = new AtomicReference<>();
        // Bounded: a broker may refuse what has waited too long, and how much that is depends on the machine.
        Semaphore underWay = new Semaphore(64);
        for (int i = 0; i < count; i++) {
            int number = i;
            Check.that(underWay.tryAcquire(10, TimeUnit.SECONDS), "64 sends have no answer after 10 s");
            producer.send(Bench.message(topic, "tag", null, Integer.toString(i)), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    calls.incrementAndGet(number);
                    called.incrementAndGet();
                    underWay.release();
                }

                @Override
                public void onException(Throwable e) {
                    failure.set(e);
                    calls.incrementAndGet(number);
                    called.incrementAndGet();
                    underWay.release();
                }
            });
        }
        Check.eventually(20_000, "all callbacks called", () -> called.get() >= count);
        Check.that(failure.get() == null, "a send failed: %s", failure.get());
        for (int i = 0; i < count; i++) {
            Check.equal(1, calls.get(i), "calls of the callback of message " + i);
        }
        Check.equal(count, bench.drain(topic, count, 300).size(), "messages read");
    }

    static void oneway(Bench bench) throws Exception {
        String topic = bench.topic("topic", 4);
        DefaultMQProducer producer = bench.producer();
        int count = 500;
        for (int i = 0; i < count; i++) {
            producer.sendOneway(Bench.message(topic, "tag", null, Integer.toString(i)));
        }
        Set<String> bodies = new HashSet<>();
        for (MessageExt message : bench.drain(topic, count, 500)) {
            Check.that(bodies.add(Bench.body(message)), "message %s came twice", Bench.body(message));
        }
        Check.equal(count, bodies.size(), "messages read");
    }

    static void batch(Bench bench) throws Exception {
        String topic = bench.topic("topic", 1);
        DefaultMQProducer producer = bench.producer();
        List<Message> messages = new ArrayList<>();
        for (int i = 0; i < 100; i++) {
            messages.add(Bench.message(topic, i % 2 == 0 ? "even" : "odd", "key-" + i, "message " + i));
        }
        SendResult result = producer.send(messages);
        Check.equal(SendStatus.SEND_OK, result.getSendStatus(), "status");
        Check.equal(100, result.getMsgId().split(",").length, "unique keys in the result");
        Check.equal(100, result.getOffsetMsgId().split(",").length, "offset ids in the result");
        Check.equal(0L, result.getQueueOffset(), "queue offset of the first");
        List<MessageExt> read = bench.drain(topic, 100, 300);
        Check.equal(100, read.size(), "messages read");
        for (int i = 0; i < 100; i++) {
            MessageExt message = read.get(i);
            Check.equal((long) i, message.getQueueOffset(), "queue offset");
            Check.equal("message " + i, Bench.body(message), "body");
            Check.equal("key-" + i, message.getKeys(), "keys");
            Check.equal(i % 2 == 0 ? "even" : "odd", message.getTags(), "tags");
            Check.equal(result.getMsgId().split(",")[i], message.getMsgId(), "unique key");
            Check.equal(result.getOffsetMsgId().split(",")[i], ((org.apache.rocketmq.common.message.MessageClientExt) message).getOffsetMsgId(), "offset id");
        }
    }

    static void selector(Bench bench) throws Exception {
        String topic = bench.topic("topic", 6);
        DefaultMQProducer producer = bench.producer();
        for (int i = 0; i < 120; i++) {
            int wanted = i % 6;
            SendResult result = producer.send(Bench.message(topic, "tag", null, Integer.toString(i)),
                (queues, message, argument) -> queues.get((Integer) argument), wanted);
            Check.equal(wanted, result.getMessageQueue().getQueueId(), "queue of message " + i);
        }
        Map<MessageQueue, Integer> last = new HashMap<>();
        List<MessageExt> read = bench.drain(topic, 120, 300);
        Check.equal(120, read.size(), "messages read");
        for (MessageExt message : read) {
            int number = Integer.parseInt(Bench.body(message));
            Check.equal(number % 6, message.getQueueId(), "queue of message " + number);
            MessageQueue queue = new MessageQueue(topic, message.getBrokerName(), message.getQueueId());
            Check.that(last.getOrDefault(queue, -1) < number, "queue %s out of order at %s", queue, number);
            last.put(queue, number);
        }
    }
}
