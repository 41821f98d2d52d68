package sluice.clients;

import java.nio.file.Files;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.ResponseCode;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** Push consumption. */
final class Consumes {
    private Consumes() {}

    /** A message that is never consumed comes 1 + maxReconsumeTimes times and then lies in the group's dead-letter topic. */
    static void deadLetter(Bench bench) throws Exception {
        String topic = bench.topic("topic", 2);
        String group = bench.name("group");
        Map<String, List<Integer>> tries = new ConcurrentHashMap<>();
        AtomicReference<String> wrongTopic = new AtomicReference<>();
        DefaultMQPushConsumer consumer = bench.pushConsumer(group, topic, "*");
        consumer.setMaxReconsumeTimes(2);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt message = messages.get(0);
            if (!message.getTopic().equals(topic)) {
                wrongTopic.set(message.getTopic());
            }
            tries.computeIfAbsent(Bench.body(message), body -> new CopyOnWriteArrayList<>()).add(message.getReconsumeTimes());
            context.setDelayLevelWhenNextConsume(1);
            return Bench.body(message).startsWith("good") ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS : ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        consumer.start();
        DefaultMQProducer producer = bench.producer();
        String badId = null;
        for (int i = 0; i < 10; i++) {
            producer.send(Bench.message(topic, "tag", "good-" + i, "good " + i));
        }
        for (int i = 0; i < 3; i++) {
            String id = producer.send(Bench.message(topic, "tag", "bad-" + i, "bad " + i)).getMsgId();
            badId = i == 0 ? id : badId;
        }
        String dead = "%DLQ%" + group;
        Check.eventually(30_000, "three tries of each bad message", () -> countTries(tries, "bad") >= 9);
        bench.awaitRoute(dead, 1);
        List<MessageExt> letters = bench.drain(dead, 3, 1500);
        Check.that(wrongTopic.get() == null, "a retried message showed the topic %s in place of its own", wrongTopic.get());
        Check.equal(13, tries.size(), "different messages seen");
        for (Map.Entry<String, List<Integer>> entry : tries.entrySet()) {
            Check.equal(entry.getKey().startsWith("good") ? List.of(0) : List.of(0, 1, 2), List.copyOf(entry.getValue()), "tries of " + entry.getKey());
        }
        Check.equal(3, letters.size(), "dead letters");
        Set<String> bodies = new HashSet<>();
        Set<String> ids = new HashSet<>();
        for (MessageExt letter : letters) {
            bodies.add(Bench.body(letter));
            ids.add(letter.getMsgId());
            Check.equal(topic, letter.getProperty(MessageConst.PROPERTY_RETRY_TOPIC), "original topic of a dead letter");
            Check.that(letter.getKeys().startsWith("bad-"), "keys of a dead letter: %s", letter.getKeys());
        }
        Check.equal(Set.of("bad 0", "bad 1", "bad 2"), bodies, "dead letters' bodies");
        Check.that(ids.contains(badId), "a dead letter lost its unique key: %s not in %s", badId, ids);
    }

    private static int countTries(Map<String, List<Integer>> tries, String prefix) {
        return tries.entrySet().stream().filter(entry -> entry.getKey().startsWith(prefix)).mapToInt(entry -> entry.getValue().size()).sum();
    }

    /** Two consumers of one group in broadcast mode each get every message once. */
    static void broadcast(Bench bench) throws Exception {
        System.setProperty("rocketmq.client.localOffsetStoreDir", Files.createTempDirectory("sluice-broadcast").toString());
        String topic = bench.topic("topic", 4);
        String group = bench.name("group");
        List<ConcurrentLinkedQueue<String>> seen = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            ConcurrentLinkedQueue<String> mine = new ConcurrentLinkedQueue<>();
            seen.add(mine);
            DefaultMQPushConsumer consumer = bench.pushConsumer(group, topic, "*");
            consumer.setMessageModel(MessageModel.BROADCASTING);
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(message -> mine.add(Bench.body(message)));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
        }
        DefaultMQProducer producer = bench.producer();
        for (int i = 0; i < 100; i++) {
            producer.send(Bench.message(topic, "tag", null, Integer.toString(i)));
        }
        Check.eventually(20_000, "both consumers have all", () -> seen.get(0).size() >= 100 && seen.get(1).size() >= 100);
        Thread.sleep(500);
        for (ConcurrentLinkedQueue<String> mine : seen) {
            Check.equal(100, mine.size(), "messages of one consumer");
            Check.equal(100, new HashSet<>(mine).size(), "different messages of one consumer");
        }
    }

    /** Groups with different tag expressions get exactly their share. */
    static void tags(Bench bench) throws Exception {
        String topic = bench.topic("topic", 4);
        Map<String, Set<String>> wanted = Map.of("a", Set.of("a"), "a || c", Set.of("a", "c"), "*", Set.of("a", "b", "c"));
        Map<String, ConcurrentLinkedQueue<String>> seen = new HashMap<>();
        int group = 0;
        for (String expression : wanted.keySet()) {
            ConcurrentLinkedQueue<String> mine = new ConcurrentLinkedQueue<>();
            seen.put(expression, mine);
            DefaultMQPushConsumer consumer = bench.pushConsumer(bench.name("group" + group++), topic, expression);
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(message -> mine.add(message.getTags()));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
        }
        DefaultMQProducer producer = bench.producer();
        for (int i = 0; i < 300; i++) {
            producer.send(Bench.message(topic, List.of("a", "b", "c").get(i % 3), null, Integer.toString(i)));
        }
        for (Map.Entry<String, Set<String>> entry : wanted.entrySet()) {
            ConcurrentLinkedQueue<String> mine = seen.get(entry.getKey());
            Check.eventually(20_000, "all of " + entry.getKey(), () -> mine.size() >= 100 * entry.getValue().size());
        }
        Thread.sleep(500);
        for (Map.Entry<String, Set<String>> entry : wanted.entrySet()) {
            ConcurrentLinkedQueue<String> mine = seen.get(entry.getKey());
            Check.equal(100 * entry.getValue().size(), mine.size(), "messages for " + entry.getKey());
            Check.equal(entry.getValue(), new HashSet<>(mine), "tags for " + entry.getKey());
        }
    }

    /** Delay levels 1 (1 s) and 2 (5 s): not early, and no more than {@code LATE} late. */
    static void delayLevels(Bench bench) throws Exception {
        long lateMillis = 2000;
        String topic = bench.topic("topic", 4);
        Map<String, Long> arrived = new ConcurrentHashMap<>();
        Map<String, Integer> times = new ConcurrentHashMap<>();
        DefaultMQPushConsumer consumer = bench.pushConsumer(bench.name("group"), topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                arrived.put(Bench.body(message), System.currentTimeMillis());
                times.merge(Bench.body(message), 1, Integer::sum);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        DefaultMQProducer producer = bench.producer();
        // The first message also waits for the consumer's first rebalance: be sure that it is over.
        producer.send(Bench.message(topic, "tag", null, "warm"));
        Check.eventually(20_000, "a message without delay", () -> arrived.containsKey("warm"));
        Map<String, Long> before = new HashMap<>();
        Map<String, Long> after = new HashMap<>();
        long[] delay = {0, 1000, 5000};
        for (int i = 0; i < 20; i++) {
            int level = 1 + i % 2;
            String body = level + "-" + i;
            Message message = Bench.message(topic, "tag", null, body);
            message.setDelayTimeLevel(level);
            before.put(body, System.currentTimeMillis());
            producer.send(message);
            after.put(body, System.currentTimeMillis());
        }
        Check.eventually(20_000, "all delayed messages", () -> arrived.size() >= 21);
        for (String body : before.keySet()) {
            long wanted = delay[body.charAt(0) - '0'];
            Check.that(arrived.get(body) >= before.get(body) + wanted, "%s came early: after %s ms", body, arrived.get(body) - before.get(body));
            Check.that(arrived.get(body) <= after.get(body) + wanted + lateMillis, "%s came late: after %s ms", body, arrived.get(body) - after.get(body));
            Check.equal(1, times.get(body), "times that " + body + " came");
        }
    }

    /** A reset moves a consumer that runs, which reads everything once more, and holds against what it commits; without a member it holds too. */
    static void resetOffset(Bench bench) throws Exception {
        String topic = bench.topic("topic", 4);
        String group = bench.name("group");
        Map<String, Integer> times = new ConcurrentHashMap<>();
        DefaultMQPushConsumer consumer = bench.pushConsumer(group, topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> times.merge(Bench.body(message), 1, Integer::sum));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        DefaultMQProducer producer = bench.producer();
        for (int i = 0; i < 40; i++) {
            producer.send(Bench.message(topic, "tag", null, Integer.toString(i)));
        }
        DefaultMQAdminExt admin = bench.admin();
        Check.eventually(30_000, "everything is read and committed", () -> times.size() == 40 && committed(admin, group, topic) == 40);
        Map<MessageQueue, Long> moved = admin.resetOffsetByTimestamp(topic, group, 0, true);
        Check.equal(4, moved.size(), "queues that were reset");
        Check.that(moved.values().stream().allMatch(offset -> offset == 0), "reset to %s", moved);
        Check.eventually(60_000, "everything is read again", () -> times.values().stream().allMatch(n -> n >= 2));
        // Longer than the pause between two commits of the client.
        Thread.sleep(7_000);
        Check.equal(Set.of(2), new HashSet<>(times.values()), "times that each message came");
        // When the client commits is its own affair; that it counts is what is claimed.
        Check.eventually(30_000, "the second reading is committed", () -> committed(admin, group, topic) == 40);
        consumer.shutdown();

        admin.resetOffsetByTimestamp(topic, group, 0, true);
        Check.equal(0L, committed(admin, group, topic), "committed after a reset without a member");
        try {
            admin.resetOffsetByTimestamp(topic, bench.name("nobody"), 0, true);
            throw new Check.Failed("a group that does not exist was reset");
        } catch (MQClientException e) {
            Check.equal(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, e.getResponseCode(), "code for a group that does not exist");
        }
    }

    private static long committed(DefaultMQAdminExt admin, String group, String topic) throws Exception {
        return admin.examineConsumeStats(group, topic).getOffsetTable().values().stream().mapToLong(offset -> Math.max(0, offset.getConsumerOffset())).sum();
    }
}
