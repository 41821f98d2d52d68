package sluice.clients;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.zip.CRC32;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Lines of a real text through the broker and back: none lost, none altered, each queue in order. */
final class Million {
    private static final int QUEUES = 8;
    private static final int BATCH = 64;

    private final int count;
    private final List<byte[]> lines;
    /** Per queue the next number within it; touched only by the queue's one owner, published by the atomics. */
    private final AtomicLong[] next = new AtomicLong[QUEUES];
    private final AtomicLong received = new AtomicLong();
    private final AtomicReference<String> wrong = new AtomicReference<>();

    private Million(int count, List<byte[]> lines) {
        this.count = count;
        this.lines = lines;
        for (int i = 0; i < QUEUES; i++) {
            next[i] = new AtomicLong();
        }
    }

    static void run(Bench bench) throws Exception {
        Check.that(bench.options.text != null, "--text FILE is required: the lines to send");
        List<byte[]> lines = new ArrayList<>();
        for (String line : Files.readAllLines(bench.options.text)) {
            if (!line.isBlank()) {
                lines.add(line.getBytes(StandardCharsets.UTF_8));
            }
        }
        Check.that(!lines.isEmpty(), "%s has no line", bench.options.text);
        new Million(bench.options.millionCount, lines).go(bench);
    }

    private void go(Bench bench) throws Exception {
        String topic = bench.topic("text", QUEUES);
        String group = bench.name("group");
        for (int i = 0; i < 2; i++) {
            DefaultMQPushConsumer consumer = bench.pushConsumer(group, topic, "*");
            consumer.setPullBatchSize(64);
            consumer.setConsumeMessageBatchMaxSize(64);
            consumer.setConsumeThreadMin(4);
            consumer.setConsumeThreadMax(4);
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                messages.forEach(this::receive);
                return ConsumeOrderlyStatus.SUCCESS;
            });
            consumer.start();
        }
        long start = System.nanoTime();
        send(bench.producer(), topic);
        double sending = (System.nanoTime() - start) / 1e9;
        Check.eventually(600_000, "all consumed", () -> received.get() >= count || wrong.get() != null);
        Check.that(wrong.get() == null, "%s", wrong.get());
        double all = (System.nanoTime() - start) / 1e9;
        long total = 0;
        for (int queue = 0; queue < QUEUES; queue++) {
            Check.equal((long) countOf(queue), next[queue].get(), "messages of queue " + queue);
            total += next[queue].get();
        }
        Check.equal((long) count, total, "messages");
        System.err.printf("million: %d messages sent in %.1f s (%.0f/s), all consumed after %.1f s%n", count, sending, count / sending, all);
    }

    private int countOf(int queue) {
        return count / QUEUES + (queue < count % QUEUES ? 1 : 0);
    }

    /** Line {@code number} of queue {@code queue}, with its place before it so that each message is different. */
    private byte[] body(int queue, long number) {
        byte[] line = lines.get((int) ((number * QUEUES + queue) % lines.size()));
        byte[] place = (queue + " " + number + "\t").getBytes(StandardCharsets.UTF_8);
        byte[] body = new byte[place.length + line.length];
        System.arraycopy(place, 0, body, 0, place.length);
        System.arraycopy(line, 0, body, place.length, line.length);
        return body;
    }

    private void send(DefaultMQProducer producer, String topic) throws Exception {
        List<MessageQueue> queues = new ArrayList<>(producer.fetchPublishMessageQueues(topic));
        queues.sort(null);
        Check.equal(QUEUES, queues.size(), "queues to send to");
        ExecutorService threads = Executors.newFixedThreadPool(QUEUES);
        List<Future<?>> senders = new ArrayList<>();
        for (MessageQueue queue : queues) {
            senders.add(threads.submit(() -> {
                sendQueue(producer, topic, queue);
                return null;
            }));
        }
        threads.shutdown();
        for (Future<?> sender : senders) {
            sender.get(600, TimeUnit.SECONDS);
        }
    }

    private void sendQueue(DefaultMQProducer producer, String topic, MessageQueue queue) throws Exception {
        int total = countOf(queue.getQueueId());
        for (int from = 0; from < total; from += BATCH) {
            List<Message> batch = new ArrayList<>(BATCH);
            for (int number = from; number < Math.min(total, from + BATCH); number++) {
                Message message = new Message(topic, body(queue.getQueueId(), number));
                message.putUserProperty("crc", Long.toHexString(crc(message.getBody())));
                batch.add(message);
            }
            SendResult result = producer.send(batch, queue);
            Check.equal(SendStatus.SEND_OK, result.getSendStatus(), "status");
            Check.equal((long) from, result.getQueueOffset(), "queue offset in queue " + queue.getQueueId());
        }
    }

    private void receive(MessageExt message) {
        int queue = message.getQueueId();
        long expected = next[queue].get();
        if (message.getQueueOffset() < expected) {
            return; // Delivered again after a change of owner: at least once is the promise.
        }
        if (message.getQueueOffset() != expected) {
            wrong.compareAndSet(null, "queue " + queue + " skipped from " + expected + " to " + message.getQueueOffset());
        } else if (!java.util.Arrays.equals(message.getBody(), body(queue, expected))) {
            wrong.compareAndSet(null, "queue " + queue + " number " + expected + " has another body: " + Bench.body(message));
        } else if (!Long.toHexString(crc(message.getBody())).equals(message.getUserProperty("crc"))) {
            wrong.compareAndSet(null, "queue " + queue + " number " + expected + " has another checksum");
        } else {
            next[queue].incrementAndGet();
            received.incrementAndGet();
        }
    }

    private static long crc(byte[] body) {
        CRC32 crc = new CRC32();
        crc.update(body);
        return crc.getValue();
    }
}
