// The types for `import`: the same as for `require`.
export * from './index.js';
