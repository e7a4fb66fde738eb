package com.acme;

import java.io.Serializable;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A complex value: nested, with references, lists, maps, nulls and every number. */
public class Order implements Serializable {
    private static final long serialVersionUID = 1L;

    private String id;
    private int count;
    private long total;
    private double rate;
    private boolean paid;
    private List<String> lines = new ArrayList<>();
    private Map<String, Object> notes = new LinkedHashMap<>();
    private Order parent;

    public static Order sample() {
        Order parent = new Order();
        parent.id = "parent";
        parent.count = -1;
        Order order = new Order();
        order.id = "订单-\uD83D\uDE00";
        order.count = 70_000;
        order.total = 9_007_199_254_740_993L;
        order.rate = 0.125;
        order.paid = true;
        for (int i = 0; i < 20; i++) {
            order.lines.add("line " + i);
        }
        order.notes.put("none", null);
        order.notes.put("number", 7);
        order.notes.put("text", "long ".repeat(300));
        order.parent = parent;
        return order;
    }

    public Map<String, Object> toMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("id", id);
        map.put("count", count);
        map.put("total", Long.toString(total));
        map.put("rate", rate);
        map.put("paid", paid);
        map.put("lines", lines);
        map.put("notes", notes);
        map.put("parent", parent == null ? null : parent.toMap());
        return map;
    }

    public String getId() {
        return id;
    }

    public void setId(String id) {
        this.id = id;
    }

    public int getCount() {
        return count;
    }

    public void setCount(int count) {
        this.count = count;
    }

    public long getTotal() {
        return total;
    }

    public void setTotal(long total) {
        this.total = total;
    }

    public double getRate() {
        return rate;
    }

    public void setRate(double rate) {
        this.rate = rate;
    }

    public boolean isPaid() {
        return paid;
    }

    public void setPaid(boolean paid) {
        this.paid = paid;
    }

    public List<String> getLines() {
        return lines;
    }

    public void setLines(List<String> lines) {
        this.lines = lines;
    }

    public Map<String, Object> getNotes() {
        return notes;
    }

    public void setNotes(Map<String, Object> notes) {
        this.notes = notes;
    }

    public Order getParent() {
        return parent;
    }

    public void setParent(Order parent) {
        this.parent = parent;
    }
}
