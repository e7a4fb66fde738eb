package com.acme.sentinel;

import com.acme.Console;
import com.alibaba.csp.sentinel.cluster.flow.rule.ClusterFlowRuleManager;
import com.alibaba.csp.sentinel.cluster.flow.rule.ClusterParamFlowRuleManager;
import com.alibaba.csp.sentinel.cluster.server.SentinelDefaultTokenServer;
import com.alibaba.csp.sentinel.cluster.server.config.ClusterServerConfigManager;
import com.alibaba.csp.sentinel.cluster.server.config.ServerTransportConfig;
import com.alibaba.csp.sentinel.slots.block.ClusterRuleConstant;
import com.alibaba.csp.sentinel.slots.block.flow.ClusterFlowConfig;
import com.alibaba.csp.sentinel.slots.block.flow.FlowRule;
import com.alibaba.csp.sentinel.slots.block.flow.param.ParamFlowClusterConfig;
import com.alibaba.csp.sentinel.slots.block.flow.param.ParamFlowRule;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Sentinel's own token server. */
public final class Main {
    /** Tokens are those of a day, so that no test ends in another window than it began in. */
    private static final int WINDOW = 24 * 60 * 60 * 1000;

    private Main() {
    }

    public static void main(String[] args) throws Exception {
        Console.serve(Main::handle);
    }

    private static Object handle(String operation, Map<String, String> fields) throws Throwable {
        String namespace = fields.get("namespace");
        switch (operation) {
            case "serve":
                ClusterServerConfigManager.loadServerNamespaceSet(Set.of(namespace));
                ClusterServerConfigManager.loadGlobalTransportConfig(
                        new ServerTransportConfig(Integer.parseInt(fields.get("port")), 600));
                new SentinelDefaultTokenServer().start();
                return "serving";
            case "rules":
                ClusterFlowRuleManager.loadRules(namespace, List.of(rule(fields)));
                ClusterParamFlowRuleManager.loadRules(namespace, List.of(forValues(fields)));
                return "loaded";
            default:
                throw new IllegalArgumentException("unknown operation " + operation);
        }
    }

    /** The server compares what passed in a second, as the mean of the window, and the one more, with the threshold. */
    private static double threshold(String tokens) {
        return 1 + (Integer.parseInt(tokens) - 0.5) * 1000 / WINDOW;
    }

    private static FlowRule rule(Map<String, String> fields) {
        FlowRule rule = new FlowRule("mesh");
        rule.setCount(threshold(fields.get("tokens")));
        rule.setClusterMode(true);
        rule.setClusterConfig(new ClusterFlowConfig()
                .setFlowId(Long.parseLong(fields.get("flow")))
                .setThresholdType(ClusterRuleConstant.FLOW_THRESHOLD_GLOBAL)
                .setSampleCount(1)
                .setWindowIntervalMs(WINDOW));
        return rule;
    }

    private static ParamFlowRule forValues(Map<String, String> fields) {
        ParamFlowClusterConfig config = new ParamFlowClusterConfig();
        config.setFlowId(Long.parseLong(fields.get("values")));
        config.setThresholdType(ClusterRuleConstant.FLOW_THRESHOLD_GLOBAL);
        config.setSampleCount(1);
        config.setWindowIntervalMs(WINDOW);
        ParamFlowRule rule = new ParamFlowRule("mesh");
        rule.setParamIdx(0);
        rule.setCount(threshold(fields.get("tokens")));
        rule.setClusterMode(true);
        rule.setClusterConfig(config);
        return rule;
    }
}
