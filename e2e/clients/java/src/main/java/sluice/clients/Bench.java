package sluice.clients;

import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.route.BrokerData;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** What a scenario works with: names of its own, clients that are closed after it, and the run's options. */
final class Bench implements AutoCloseable {
    private static final AtomicInteger INSTANCES = new AtomicInteger();

    final Options options;
    private final String scenario;
    private final Deque<AutoCloseable> open = new ArrayDeque<>();
    private DefaultMQAdminExt admin;

    Bench(Options options, String scenario) {
        this.options = options;
        this.scenario = scenario;
    }

    /** A name that no other run has used. */
    String name(String suffix) {
        return scenario.replace('-', '_') + "_" + suffix + "_" + options.runId;
    }

    /** Closes {@code resource} after the scenario, last opened first. */
    <T extends AutoCloseable> T closing(T resource) {
        open.push(resource);
        return resource;
    }

    static String freshInstance() {
        return "e2e-" + INSTANCES.incrementAndGet();
    }

    DefaultMQAdminExt admin() throws Exception {
        if (admin == null) {
            DefaultMQAdminExt client = new DefaultMQAdminExt(5000);
            client.setNamesrvAddr(options.namesrv);
            client.setInstanceName(freshInstance());
            client.start();
            open.push(client::shutdown);
            admin = client;
        }
        return admin;
    }

    List<String> brokerAddresses() throws Exception {
        List<String> addresses = new ArrayList<>();
        for (BrokerData broker : admin().examineBrokerClusterInfo().getBrokerAddrTable().values()) {
            addresses.add(broker.selectBrokerAddr());
        }
        Check.that(!addresses.isEmpty(), "the name server at %s knows no broker", options.namesrv);
        return addresses;
    }

    /** Creates a topic with so many queues on the broker and waits for its route. */
    String topic(String suffix, int queues) throws Exception {
        String topic = name(suffix);
        for (String address : brokerAddresses()) {
            admin().createAndUpdateTopicConfig(address, new TopicConfig(topic, queues, queues, 6));
        }
        awaitRoute(topic, queues);
        return topic;
    }

    void awaitRoute(String topic, int queues) throws Exception {
        Check.eventually(10_000, "route of " + topic, () ->
            admin().examineTopicRouteInfo(topic).getQueueDatas().stream().mapToInt(q -> q.getReadQueueNums()).sum() >= queues);
    }

    DefaultMQProducer producer() throws Exception {
        return producer(options.namesrv);
    }

    DefaultMQProducer producer(String namesrv) throws Exception {
        DefaultMQProducer producer = unstartedProducer(namesrv);
        producer.start();
        return producer;
    }

    DefaultMQProducer unstartedProducer(String namesrv) {
        DefaultMQProducer producer = new DefaultMQProducer(name("producer"));
        producer.setNamesrvAddr(namesrv);
        producer.setInstanceName(freshInstance());
        producer.setSendMsgTimeout(5000);
        open.push(producer::shutdown);
        return producer;
    }

    DefaultMQPushConsumer pushConsumer(String group, String topic, String tags) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(options.namesrv);
        consumer.setInstanceName(freshInstance());
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        // The group's retry topic is made by the first heartbeat; by default the client would look for it after 30 s.
        consumer.setPollNameServerInterval(1000);
        // After a rebalance the client raises its subscription's version and tells the broker, but not if its regular heartbeat is just under way: then all its
        // pulls are refused as too new until the next one, after 30 s by default.
        consumer.setHeartbeatBrokerInterval(2000);
        consumer.subscribe(topic, tags);
        open.push(consumer::shutdown);
        return consumer;
    }

    DefaultLitePullConsumer litePull(String group) {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(group);
        consumer.setNamesrvAddr(options.namesrv);
        consumer.setInstanceName(freshInstance());
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        open.push(consumer::shutdown);
        return consumer;
    }

    /** Reads everything that a topic holds: ends when at least {@code expected} came and nothing more for {@code quietMillis}. */
    List<MessageExt> drain(String topic, int expected, long quietMillis) throws Exception {
        DefaultLitePullConsumer consumer = litePull(name("drain"));
        consumer.setAutoCommit(false);
        // Not a seek to the beginning after assign: in the client a fetch under way then may skip or repeat what it had cached.
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.start();
        List<MessageQueue> queues = new ArrayList<>(consumer.fetchMessageQueues(topic));
        consumer.assign(queues);
        List<MessageExt> all = new ArrayList<>();
        long end = System.currentTimeMillis() + 30_000;
        long last = System.currentTimeMillis();
        while (System.currentTimeMillis() < end) {
            List<MessageExt> some = consumer.poll(200);
            if (!some.isEmpty()) {
                all.addAll(some);
                last = System.currentTimeMillis();
            } else if (all.size() >= expected && System.currentTimeMillis() - last >= quietMillis) {
                break;
            }
        }
        return all;
    }

    static Message message(String topic, String tags, String keys, String body) {
        return new Message(topic, tags, keys, body.getBytes(StandardCharsets.UTF_8));
    }

    static String body(Message message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }

    @Override
    public void close() {
        while (!open.isEmpty()) {
            try {
                open.pop().close();
            } catch (Exception e) {
                System.err.println("closing after " + scenario + ": " + e);
            }
        }
    }
}
