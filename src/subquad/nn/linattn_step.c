/* One token of hybrid attention per row, for float32 on a CPU: what `hybrid_step` of linattn.py and the feature map
   Hedgehog compute.

   Sizes: B rows, Hq query heads, Hkv key heads, H heads of the sum or of the map, K key width, V value width, F
   features, U width of the inputs of the keys' map, R slots, of which E are sinks and S the ring; the cache has the
   other R - E - S.
   All arrays are contiguous, with the shapes that `subquad.ops.linattn_native` checks. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t size;

/* Softmax attention of one query to all slots that are not hidden: the unnormalised weights and the sums of values
   and of weights, relative to the largest score, which is written too. */
static float attend(size R, size K, size V, float scale, const float *query, const float *keys, const float *values,
                    const uint8_t *hidden, float *weights, float *top, float *largest) {
  float most = -FLT_MAX, bottom = 0;
  for (size r = 0; r < R; r++) {
    float score = 0;
    for (size i = 0; i < K; i++) score += query[i] * keys[r * K + i];
    weights[r] = hidden[r] ? -FLT_MAX : score * scale;
    most = fmaxf(most, weights[r]);
  }
  for (size r = 0; r < R; r++) weights[r] = expf(weights[r] - most);
  for (size r = 0; r < R; r++) bottom += weights[r];
  for (size i = 0; i < V; i++) top[i] = 0;
  for (size r = 0; r < R; r++)
    for (size i = 0; i < V; i++) top[i] += weights[r] * values[r * V + i];
  *largest = most;
  return bottom;
}

/* What moments say of the tokens before the window, as `far_terms` of moments.py: their mean value under the weights,
   and the logarithm of the sum of the weights. total is the sum of [k, 1] [v, 1] and has at least one token. */
static float far_terms(size K, size V, float scale, float spread, const float *query, const float *total,
                       const float *squares, float *value) {
  size V1 = V + 1;
  const float *sum_v = total + K * V1;
  float number = sum_v[V], mean = 0, variance = 0;
  for (size i = 0; i < V; i++) value[i] = 0;
  for (size i = 0; i < K; i++) {
    float x = query[i] * scale, mean_k = total[i * V1 + V] / number;
    mean += x * mean_k;
    variance += x * x * fmaxf(squares[i] / number - mean_k * mean_k, 0);
    for (size j = 0; j < V; j++) value[j] += x * total[i * V1 + j];
  }
  float root = sqrtf(1 + variance / spread);
  for (size j = 0; j < V; j++) value[j] = (sum_v[j] + (value[j] - mean * sum_v[j]) / root) / number;
  return logf(number) + mean + spread * (root - 1);
}

/* Write the token into its slot, and compute the attention's output. `ring` and `inputs` are NULL if the map of keys
   reads the keys, `mass` without a cache; `phi` and `squares` are NULL without linear terms, and one of them otherwise:
   features, or moments with their `spread`. Returns 0, or 1 if memory is missing or a slot is not one of the ring. */
int subquad_hybrid_step(size B, size Hq, size Hkv, size H, size K, size V, size F, size U, size R, size E, size S,
                        float scale, const float *q, const float *k, const float *v, const float *inputs,
                        const float *phi, const float *squares, const float *spread, const float *mix,
                        const uint8_t *hidden, const size *slot, float *keys, float *values, const float *total,
                        float *ring, float *mass, float *y) {
  size G = Hq / Hkv, shared = Hq / H, front = R - S;
  for (size b = 0; b < B; b++)
    if (slot[b] < 0 || slot[b] >= S) return 1;
  float *weights = malloc((R + 2 * V + 1) * sizeof(float)), *top = weights + R, *past = top + V;
  if (!weights) return 1;
  for (size b = 0; b < B; b++) {
    for (size h = 0; h < Hkv; h++) {
      size row = b * Hkv + h, at = front + slot[b];
      float *own_keys = keys + row * R * K, *own_values = values + row * R * V;
      memcpy(own_keys + at * K, k + row * K, K * sizeof(float));
      memcpy(own_values + at * V, v + row * V, V * sizeof(float));
      if (ring) memcpy(ring + (row * S + slot[b]) * U, inputs + row * U, U * sizeof(float));
      if (mass) mass[row * (R - E) + at - E] = 0;
      for (size g = 0; g < G; g++) {
        size head = h * G + g;
        float *out = y + (b * Hq + head) * V;
        const float *query = q + (b * Hq + head) * K;
        float most, bottom = attend(R, K, V, scale, query, own_keys, own_values, hidden + b * R, weights, top, &most);
        if (mass)
          for (size r = E; r < R; r++) mass[row * (R - E) + r - E] += weights[r] / bottom;
        const float *sum = total + (b * H + head / shared) * F * (V + 1);
        if (!phi && !(squares && sum[F * (V + 1) - 1] > 0.5f)) {
          for (size i = 0; i < V; i++) out[i] = top[i] / bottom;
          continue;
        }
        if (squares) {
          float level = far_terms(K, V, scale, spread[head], query, sum, squares + row * K, past) - mix[head];
          float largest = fmaxf(level, most), near = expf(most - largest), far = expf(level - largest);
          for (size i = 0; i < V; i++) out[i] = (near * top[i] + far * past[i]) / (near * bottom + far);
          continue;
        }
        const float *feature = phi + (b * Hq + head) * F;
        for (size i = 0; i <= V; i++) past[i] = 0;
        for (size f = 0; f < F; f++)
          for (size i = 0; i <= V; i++) past[i] += feature[f] * sum[f * (V + 1) + i];
        float gamma = expf(mix[head]), below = past[V] + gamma * bottom;
        for (size i = 0; i < V; i++) out[i] = (past[i] + gamma * top[i]) / below;
      }
    }
  }
  free(weights);
  return 0;
}

/* Write softmax(sign z) into y. */
static void softmax(size C, float sign, const float *z, float *y) {
  float most = -FLT_MAX, sum = 0;
  for (size c = 0; c < C; c++) most = fmaxf(most, sign * z[c]);
  for (size c = 0; c < C; c++) y[c] = expf(sign * z[c] - most);
  for (size c = 0; c < C; c++) sum += y[c];
  for (size c = 0; c < C; c++) y[c] /= sum;
}

/* Hedgehog features of one position per row: x [B, Hx, K] and weight [H, K, C] give y [B, H, 2 C]; returns 0, or 1 if
   memory is missing. */
int subquad_hedgehog(size B, size H, size Hx, size K, size C, const float *x, const float *weight, float *y) {
  float *z = malloc(C * sizeof(float));
  if (!z) return 1;
  for (size h = 0; h < H; h++) {
    const float *w = weight + h * K * C;
    for (size b = 0; b < B; b++) {
      const float *own = x + (b * Hx + h / (H / Hx)) * K;
      float *features = y + (b * H + h) * 2 * C;
      for (size c = 0; c < C; c++) z[c] = 0;
      for (size k = 0; k < K; k++)
        for (size c = 0; c < C; c++) z[c] += own[k] * w[k * C + c];
      softmax(C, 1, z, features);
      softmax(C, -1, z, features + C);
    }
  }
  free(z);
  return 0;
}
