//! A directed graph with kinds of edges: strongly connected components, and the shortest cycle of one. O(V+E), without recursion.

use std::collections::VecDeque;

/// Nodes are numbered from 0 on.
pub type Node = u32;

/// An edge: from, to, kind.
pub type Edge = (Node, Node, u8);

/// The edges by the node that they begin at.
pub struct Graph {
    starts: Vec<u32>,
    targets: Vec<Node>,
    kinds: Vec<u8>,
}

/// A component that has a cycle: its nodes.
pub type Component = Vec<Node>;

impl Graph {
    /// Builds a graph of so many nodes.
    pub fn new(nodes: usize, edges: &[Edge]) -> Self {
        let mut starts = vec![0_u32; nodes + 1];
        for (from, ..) in edges {
            starts[*from as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        let mut next = starts.clone();
        let (mut targets, mut kinds) = (vec![0; edges.len()], vec![0; edges.len()]);
        for (from, to, kind) in edges {
            let at = &mut next[*from as usize];
            targets[*at as usize] = *to;
            kinds[*at as usize] = *kind;
            *at += 1;
        }
        Self { starts, targets, kinds }
    }

    fn edges(&self, node: Node) -> std::ops::Range<usize> {
        self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize
    }

    /// The strongly connected components of more than one node, by Tarjan's algorithm (1972), over edges of kinds that count.
    pub fn components(&self, counts: impl Fn(u8) -> bool) -> Vec<Component> {
        const NEW: u32 = u32::MAX;
        let nodes = self.starts.len() - 1;
        let mut order = vec![NEW; nodes];
        let mut low = vec![0_u32; nodes];
        let mut on_stack = vec![false; nodes];
        let mut stack: Vec<Node> = Vec::new();
        let mut path: Vec<(Node, usize)> = Vec::new();
        let mut found = Vec::new();
        let mut count = 0;
        for root in 0..u32::try_from(nodes).expect("nodes are numbered so") {
            if order[root as usize] != NEW {
                continue;
            }
            path.push((root, self.edges(root).start));
            while let Some((node, edge)) = path.last_mut() {
                let (node, at) = (*node, *node as usize);
                if order[at] == NEW {
                    (order[at], low[at]) = (count, count);
                    count += 1;
                    stack.push(node);
                    on_stack[at] = true;
                }
                let end = self.edges(node).end;
                let mut below = None;
                while *edge < end && below.is_none() {
                    let (target, kind) = (self.targets[*edge], self.kinds[*edge]);
                    *edge += 1;
                    if !counts(kind) {
                        continue;
                    }
                    if order[target as usize] == NEW {
                        below = Some(target);
                    } else if on_stack[target as usize] {
                        low[at] = low[at].min(order[target as usize]);
                    }
                }
                if let Some(target) = below {
                    path.push((target, self.edges(target).start));
                    continue;
                }
                path.pop();
                if let Some((above, _)) = path.last() {
                    low[*above as usize] = low[*above as usize].min(low[at]);
                }
                if low[at] == order[at] {
                    let from = stack
                        .iter()
                        .rposition(|it| *it == node)
                        .expect("a root is on the stack");
                    let component: Component = stack.drain(from..).collect();
                    component.iter().for_each(|it| on_stack[*it as usize] = false);
                    if component.len() > 1 {
                        found.push(component);
                    }
                }
            }
        }
        found
    }

    /// The edges that begin at a node: where they lead, and their kind.
    pub fn edges_of(&self, node: Node) -> impl Iterator<Item = (Node, u8)> + '_ {
        self.edges(node).map(|edge| (self.targets[edge], self.kinds[edge]))
    }

    /// The shortest cycle of a component through one of these nodes: its edges in order. Edges whose kind is free add no length. Of a
    /// large component only cycles through the first of these nodes are looked at.
    pub fn shortest_cycle(
        &self,
        component: &[Node],
        starts: impl Iterator<Item = Node>,
        counts: impl Fn(u8) -> bool,
        is_free: impl Fn(u8) -> bool,
    ) -> Vec<Edge> {
        const STARTS_MAX: usize = 64;
        const STEPS_MAX: usize = 4_000_000;
        let mut sorted = component.to_vec();
        sorted.sort_unstable();
        let place = |node: Node| sorted.binary_search(&node).ok();
        let mut shortest: Option<(u32, Vec<Edge>)> = None;
        let mut steps = 0;
        for start in starts.take(STARTS_MAX) {
            let mut came: Vec<Option<(Edge, u32)>> = vec![None; sorted.len()];
            // Each entry is a node and its distance; free edges go to the front (0-1 breadth-first search).
            let mut queue = VecDeque::from([(start, 0)]);
            let mut closed = None;
            while let Some((node, distance)) = queue.pop_front() {
                if node == start && distance > 0 {
                    closed = Some(distance);
                    break;
                }
                if shortest.as_ref().is_some_and(|(length, _)| *length <= distance) {
                    break;
                }
                for edge in self.edges(node) {
                    let (target, kind) = (self.targets[edge], self.kinds[edge]);
                    steps += 1;
                    let Some(at) = place(target).filter(|_| counts(kind)) else {
                        continue;
                    };
                    let next = distance + u32::from(!is_free(kind));
                    // A cycle of free edges alone does not exist: they go forward in time.
                    if came[at].is_none_or(|(_, before)| next < before) {
                        came[at] = Some(((node, target, kind), next));
                        match is_free(kind) {
                            true => queue.push_front((target, next)),
                            false => queue.push_back((target, next)),
                        }
                    }
                }
            }
            if let Some(length) = closed {
                let mut cycle = Vec::new();
                let mut node = start;
                while let Some((edge, _)) = place(node).and_then(|at| came[at]) {
                    cycle.push(edge);
                    node = edge.0;
                    if node == start {
                        break;
                    }
                }
                cycle.reverse();
                shortest = Some((length, cycle));
            }
            if steps > STEPS_MAX && shortest.is_some() {
                break;
            }
        }
        shortest.map(|(_, cycle)| cycle).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle(nodes: usize, edges: &[Edge]) -> Vec<Node> {
        let graph = Graph::new(nodes, edges);
        let components = graph.components(|_| true);
        let shortest = components
            .iter()
            .map(|it| graph.shortest_cycle(it, it.iter().copied(), |_| true, |kind| kind == 9))
            .min_by_key(Vec::len);
        let mut cycle: Vec<Node> = shortest.unwrap_or_default().iter().map(|edge| edge.0).collect();
        // A cycle has no first node; the lowest is as good as any.
        if let Some(first) = (0..cycle.len()).min_by_key(|at| cycle[*at]) {
            cycle.rotate_left(first);
        }
        cycle
    }

    #[test]
    fn a_chain_has_no_cycle() {
        let chain = [(0, 1, 0), (1, 2, 0), (2, 3, 0), (0, 3, 0)];
        assert_eq!(cycle(4, &chain), Vec::<Node>::new());
    }

    #[test]
    fn the_shortest_of_two_cycles_is_found() {
        let long = [(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 0, 0)];
        assert_eq!(cycle(4, &long), [0, 1, 2, 3]);
        let both = [&long[..], &[(2, 1, 0)]].concat();
        assert_eq!(cycle(4, &both).len(), 2);
    }

    #[test]
    fn free_edges_add_no_length() {
        // 0 -> 1 -> 0 has two edges that count, 2 -> 3 => 4 => 2 has one.
        let edges = [
            (0, 1, 0),
            (1, 0, 0),
            (1, 2, 0),
            (2, 3, 0),
            (3, 4, 9),
            (4, 2, 9),
            (2, 0, 0),
        ];
        assert_eq!(cycle(5, &edges), [2, 3, 4]);
    }

    #[test]
    fn a_long_path_needs_no_recursion() {
        let count = 1_000_000;
        let mut edges: Vec<Edge> = (1..count).map(|node| (node - 1, node, 0)).collect();
        edges.push((count - 1, 0, 0));
        let graph = Graph::new(count as usize, &edges);
        let components = graph.components(|_| true);
        assert_eq!(components.len(), 1);
        assert_eq!(components[0].len(), count as usize);
    }

    #[test]
    fn kinds_that_do_not_count_make_no_cycle() {
        let graph = Graph::new(2, &[(0, 1, 0), (1, 0, 1)]);
        assert_eq!(graph.components(|kind| kind == 0), Vec::<Component>::new());
        assert_eq!(graph.components(|_| true).len(), 1);
    }
}
