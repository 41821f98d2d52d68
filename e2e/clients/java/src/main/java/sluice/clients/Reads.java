package sluice.clients;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** Reading by position and by key. */
final class Reads {
    private Reads() {}

    static void litePullSeek(Bench bench) throws Exception {
        String topic = bench.topic("topic", 1);
        DefaultMQProducer producer = bench.producer();
        long middleTime = 0;
        for (int i = 0; i < 100; i++) {
            if (i == 60) {
                Thread.sleep(50);
                middleTime = System.currentTimeMillis();
                Thread.sleep(50);
            }
            producer.send(Bench.message(topic, "tag", null, Integer.toString(i)));
        }
        DefaultLitePullConsumer consumer = bench.litePull(bench.name("group"));
        consumer.setAutoCommit(false);
        consumer.start();
        MessageQueue queue = consumer.fetchMessageQueues(topic).iterator().next();
        consumer.assign(List.of(queue));
        // It pulls at once, and what a pull brings that was under way at a seek the client gives all the same: so that one has to end first.
        consumer.pause(List.of(queue));
        Thread.sleep(500);
        consumer.seek(queue, 0);
        consumer.resume(List.of(queue));
        expect(consumer, 0, 100);
        consumer.seek(queue, 40);
        expect(consumer, 40, 100);
        consumer.seekToEnd(queue);
        Check.equal(0, consumer.poll(500).size(), "messages after the end");
        producer.send(Bench.message(topic, "tag", null, "100"));
        expect(consumer, 100, 101);
        consumer.seekToBegin(queue);
        expect(consumer, 0, 101);
        Check.equal(60L, consumer.offsetForTimestamp(queue, middleTime), "offset for the time before message 60");
        consumer.commitSync();
        Check.eventually(5000, "the committed offset is 101", () -> consumer.committed(queue) == 101);
        consumer.shutdown();

        DefaultLitePullConsumer second = bench.litePull(bench.name("group"));
        second.subscribe(topic, "*");
        second.start();
        producer.send(Bench.message(topic, "tag", null, "101"));
        expect(second, 101, 102);
    }

    private static void expect(DefaultLitePullConsumer consumer, int from, int to) {
        List<Integer> got = new ArrayList<>();
        long end = System.currentTimeMillis() + 15_000;
        while (got.size() < to - from && System.currentTimeMillis() < end) {
            consumer.poll(200).forEach(message -> got.add(Integer.parseInt(Bench.body(message))));
        }
        Check.equal(java.util.stream.IntStream.range(from, to).boxed().toList(), got, "messages from " + from);
    }

    /** By key, by unique key, by offset id: the same message, whole. */
    static void query(Bench bench) throws Exception {
        String topic = bench.topic("topic", 4);
        DefaultMQProducer producer = bench.producer();
        long begin = System.currentTimeMillis() - 1000;
        List<SendResult> results = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            results.add(producer.send(Bench.message(topic, "tag", "shared own-" + i, "message " + i)));
        }
        DefaultMQAdminExt admin = bench.admin();
        long end = System.currentTimeMillis() + 60_000;
        Check.eventually(15_000, "all 50 under their shared key", () -> admin.queryMessage(topic, "shared", 64, begin, end).getMessageList().size() == 50);
        QueryResult own = admin.queryMessage(topic, "own-7", 64, begin, end);
        Check.equal(1, own.getMessageList().size(), "messages under key own-7");
        Check.equal("message 7", Bench.body(own.getMessageList().get(0)), "body under key own-7");
        Check.equal("shared own-7", own.getMessageList().get(0).getKeys(), "keys under key own-7");
        Check.equal(10, admin.queryMessage(topic, "shared", 10, begin, end).getMessageList().size(), "messages when at most 10 are asked for");
        for (int i = 0; i < 50; i += 10) {
            SendResult result = results.get(i);
            MessageExt byUnique = admin.viewMessage(topic, result.getMsgId());
            Check.that(byUnique != null, "nothing under the unique key %s", result.getMsgId());
            Check.equal("message " + i, Bench.body(byUnique), "body under a unique key");
            MessageExt byOffset = admin.viewMessage(topic, result.getOffsetMsgId());
            Check.that(byOffset != null, "nothing under the offset id %s", result.getOffsetMsgId());
            Check.equal("message " + i, Bench.body(byOffset), "body under an offset id");
            Check.equal(result.getQueueOffset(), byOffset.getQueueOffset(), "queue offset under an offset id");
        }
        try {
            List<MessageExt> none = admin.queryMessage(topic, "absent", 64, begin, end).getMessageList();
            Check.equal(0, none.size(), "messages under a key that nobody used");
        } catch (org.apache.rocketmq.client.exception.MQClientException e) {
            Check.equal(org.apache.rocketmq.remoting.protocol.ResponseCode.NO_MESSAGE, e.getResponseCode(), "code for a key that nobody used");
        }
    }
}
