// Batch norm with its activation, and a depthwise convolution between two of them: forwards and
// backwards of training on the CPU, each in as few passes over memory as there can be.
//
// Tensors are channels last: x[((n * H + h) * W + w) * C + c]; rows are pixels, P = N * H * W of
// them. Statistics are the batch's. Sums are gathered in double, a part a thread, and added up in
// the order of the parts: the same numbers on every run with as many threads. This file knows no
// tensors of PyTorch and no networks; `fused.py` says what each function is part of.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

using Int = long long;
using std::max;
using std::min;
using std::vector;

namespace {

// --- vectors: a register of channels; `n` of them where fewer are left

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

template <class T>
struct Lanes {
  static constexpr int L = BYTES / sizeof(T);
  typedef T V __attribute__((vector_size(BYTES)));
};
template <class T>
using Vec = typename Lanes<T>::V;

template <class T>
inline Vec<T> load(const T* p, Int n) {
  Vec<T> v;
  if (n >= Lanes<T>::L) {
    std::memcpy(&v, p, BYTES);
  } else {
    v = Vec<T>{};
    for (Int i = 0; i < n; i++) v[i] = p[i];
  }
  return v;
}

template <class T>
inline void store(T* p, Vec<T> v, Int n) {
  if (n >= Lanes<T>::L) {
    std::memcpy(p, &v, BYTES);
  } else {
    for (Int i = 0; i < n; i++) p[i] = v[i];
  }
}

enum { NONE, RELU, RELU6, HSWISH };

template <class T, int A>
inline Vec<T> act(Vec<T> u) {  // what is not a number stays so
  const Vec<T> zero{}, six = zero + T(6);
  if (A == RELU) return u < zero ? zero : u;
  if (A == RELU6) return u < zero ? zero : (u > six ? six : u);
  if (A == HSWISH) {
    Vec<T> k = u + T(3);
    k = k < zero ? zero : (k > six ? six : k);
    return u * k * (T(1) / T(6));
  }
  return u;
}

template <class T, int A>
inline Vec<T> slope(Vec<T> g, Vec<T> u) {  // a gradient by the activation's input `u`
  const Vec<T> zero{}, three = zero + T(3), six = zero + T(6);
  if (A == RELU) return u <= zero ? zero : g;
  if (A == RELU6) return u <= zero ? zero : (u >= six ? zero : g);
  if (A == HSWISH) {
    Vec<T> inside = g * (u + u + T(3)) * (T(1) / T(6));
    return u < -three ? zero : (u > three ? g : inside);
  }
  return g;
}

template <class F>
void with_act(Int a, F f) {
  if (a == RELU) f(std::integral_constant<int, RELU>());
  else if (a == RELU6) f(std::integral_constant<int, RELU6>());
  else if (a == HSWISH) f(std::integral_constant<int, HSWISH>());
  else f(std::integral_constant<int, NONE>());
}

template <class F>
void parallel(Int parts, F f) {
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
  for (Int t = 0; t < parts; t++) f(t);
}

// --- sums over rows

// Adds K sums over the rows r0..r1 to sums[k * C + c]: `term(row, c, n, sum)` adds one row's.
template <class T, int K, class F>
void gather(Int r0, Int r1, Int C, double* sums, F term) {
  constexpr int L = Lanes<T>::L;
  const Int Cp = (C + L - 1) / L * L;
  vector<T> some(K * Cp);
  for (Int r = r0; r < r1; r += 64) {
    std::fill(some.begin(), some.end(), T(0));
    const Int end = min(r + 64, r1);
    for (Int q = r; q < end; q += 4) {
      const Int last = min(q + 4, end);
      for (Int c = 0; c < C; c += L) {
        Vec<T> sum[K];
        for (int k = 0; k < K; k++) sum[k] = load(&some[k * Cp + c], L);
        for (Int row = q; row < last; row++) term(row, c, C - c, sum);
        for (int k = 0; k < K; k++) store(&some[k * Cp + c], sum[k], L);
      }
    }
    for (int k = 0; k < K; k++)
      for (Int c = 0; c < C; c++) sums[k * C + c] += some[k * Cp + c];
  }
}

// Mean and variance by channel of parts, each with sums of x - shift and of its square.
struct Moments {
  Int parts, C;
  vector<Int> rows;
  vector<double> shift, sums;  // (parts, C), (parts, 2, C)

  Moments(Int parts, Int C)
      : parts(parts), C(C), rows(parts), shift(parts * C), sums(parts * 2 * C) {}

  template <class T>
  void merge(double eps, T* mean, T* var, T* rstd) const {
    for (Int c = 0; c < C; c++) {
      double n = 0, m = 0, squares = 0;
      for (Int p = 0; p < parts; p++) {
        if (!rows[p]) continue;
        const double s = sums[2 * p * C + c], k = double(rows[p]);
        const double own = shift[p * C + c] + s / k, delta = own - m, total = n + k;
        squares += sums[(2 * p + 1) * C + c] - s * s / k + delta * delta * n * k / total;
        m += delta * k / total;
        n = total;
      }
      const double v = max(0.0, squares / n);
      mean[c] = T(m);
      var[c] = T(squares != squares ? squares : v);
      rstd[c] = T(1 / std::sqrt((squares != squares ? squares : v) + eps));
    }
  }
};

// What a batch norm does to each channel, forwards: x * scale + shift.
template <class T>
struct Affine {
  vector<T> scale, shift, mean;
  Affine(Int C, const T* m, const T* rstd, const T* weight, const T* bias)
      : scale(C), shift(C), mean(m, m + C) {
    for (Int c = 0; c < C; c++) {
      scale[c] = weight[c] * rstd[c];
      shift[c] = bias[c] - m[c] * scale[c];
    }
  }
};

// ... and backwards: g * scale + x * slant + lift, of the sums of g and of g * (x - mean).
template <class T>
struct Back {
  vector<T> slant, lift;
  Back(Int C, Int P, const Affine<T>& a, const T* rstd, const T* sum, const T* sum_x)
      : slant(C), lift(C) {
    for (Int c = 0; c < C; c++) {
      slant[c] = -a.scale[c] * rstd[c] * rstd[c] * sum_x[c] / T(P);
      lift[c] = -a.scale[c] * sum[c] / T(P) - slant[c] * a.mean[c];
    }
  }
};

template <class T>
void add_parts(const vector<double>& parts, Int n, Int size, T* out) {
  for (Int i = 0; i < size; i++) {
    double sum = 0;
    for (Int p = 0; p < n; p++) sum += parts[p * size + i];
    out[i] = T(sum);
  }
}

// --- a depthwise convolution's shape

struct Conv {
  Int N, C, H, W, K, S, top, left, OH, OW;
  Int wide() const { return max(left + W, (OW - 1) * S + K); }  // an input row with its padding
  Int before() const { return K - 1 - left; }                   // an output row's padding, backwards
  Int wide_out() const { return max(before() + OW, before() + (W - 1 + left) / S + 1); }
};

// One thread's part: images n0..n1 of channels c0..c1, whose sums go to the parts of group g.
struct Part {
  Int g, n0, n1, c0, c1;
  Part(const Conv& v, Int threads, Int t, Int L) {
    const Int groups = groups_of(v, threads), splits = parts(v, threads, L) / groups;
    const Int s = t % splits, vectors = (v.C + L - 1) / L;
    g = t / splits;
    n0 = v.N * g / groups, n1 = v.N * (g + 1) / groups;
    c0 = vectors * s / splits * L, c1 = min(v.C, vectors * (s + 1) / splits * L);
  }
  // Images are shared out first; where there are few, the channels, too.
  static Int groups_of(const Conv& v, Int threads) { return max(Int(1), min(threads, v.N)); }
  static Int parts(const Conv& v, Int threads, Int L) {
    const Int groups = groups_of(v, threads);
    return groups * max(Int(1), min(threads / groups, (v.C + L - 1) / L));
  }
};

// The latest K rows of an image, by vectors of channels, with room for the padding of each row.
template <class T>
struct Ring {
  Int K, wide, left;
  vector<T> all;
  Ring(Int K, Int wide, Int left, Int vectors)
      : K(K), wide(wide), left(left), all(vectors * K * wide * Lanes<T>::L) {}
  T* row(Int vec, Int h) { return &all[(vec * K + h % K) * wide * Lanes<T>::L]; }
  T* inside(Int vec, Int h) { return row(vec, h) + left * Lanes<T>::L; }
};

// The kernel by vectors of channels: (vectors, K * K, L).
template <class T>
vector<T> by_vectors(const Conv& v, const Part& p, const T* w) {
  constexpr Int L = Lanes<T>::L;
  vector<T> out((p.c1 - p.c0 + L - 1) / L * v.K * v.K * L);
  T* to = out.data();
  for (Int c = p.c0; c < p.c1; c += L)
    for (Int k = 0; k < v.K * v.K; k++, to += L) store(to, load(w + k * v.C + c, v.C - c), L);
  return out;
}

// Row h of what is convolved: x, or the activation of its norm.
template <class T, int A>
void put_row(const Conv& v, const Part& p, const T* x, const Affine<T>* pre, Int n, Int h,
             Ring<T>& ring) {
  constexpr Int L = Lanes<T>::L;
  for (Int c = p.c0; c < p.c1; c += L) {
    const Int left = v.C - c;
    const T* from = x + (n * v.H + h) * v.W * v.C + c;
    T* to = ring.inside((c - p.c0) / L, h);
    if (pre) {
      const Vec<T> scale = load(&pre->scale[c], left), shift = load(&pre->shift[c], left);
      for (Int i = 0; i < v.W; i++) {
        __builtin_prefetch(from + (v.W + i) * v.C, 0, 2);  // the next row's
        store(to + i * L, act<T, A>(load(from + i * v.C, left) * scale + shift), L);
      }
    } else {
      for (Int i = 0; i < v.W; i++) {
        __builtin_prefetch(from + (v.W + i) * v.C, 0, 2);
        store(to + i * L, load(from + i * v.C, left), L);
      }
    }
  }
}

// Sums over kernel columns, of TILE pixels that lie `step` vectors apart.
template <class T, int TILE>
inline void taps(Vec<T>* out, const T* in, Int step, const T* w, Int count, Int each, Int along) {
  constexpr Int L = Lanes<T>::L;
  for (Int k = 0; k < count; k++, w += each * L, in += along * L) {
    const Vec<T> weight = load(w, L);
#pragma GCC unroll 8
    for (int j = 0; j < TILE; j++) out[j] += load(in + j * step * L, L) * weight;
  }
}

template <class F>
inline void tiles(Int n, F f) {
  Int j = 0;
  for (; j + 8 <= n; j += 8) f(j, std::integral_constant<int, 8>());
  if (j + 4 <= n) f(j, std::integral_constant<int, 4>()), j += 4;
  if (j + 2 <= n) f(j, std::integral_constant<int, 2>()), j += 2;
  if (j < n) f(j, std::integral_constant<int, 1>());
}

template <class T, int A>
void depthwise(const Conv& v, const T* x, const Affine<T>* pre, const T* w, T* y, Int threads,
               double eps, T* mean, T* var, T* rstd) {
  constexpr Int L = Lanes<T>::L;
  Moments moments(Part::groups_of(v, threads), v.C);
  parallel(Part::parts(v, threads, L), [&](Int t) {
    const Part p(v, threads, t, L);
    const vector<T> weight = by_vectors(v, p, w);
    const Int vectors = (p.c1 - p.c0 + L - 1) / L;
    Ring<T> in(v.K, v.wide(), v.left, vectors);
    vector<T> middle(vectors * L), sums(2 * vectors * L);
    if (p.c0 == 0) moments.rows[p.g] = (p.n1 - p.n0) * v.OH * v.OW;
    for (Int n = p.n0; n < p.n1; n++) {
      Int packed = 0;
      for (Int oh = 0; oh < v.OH; oh++) {
        const Int first = oh * v.S - v.top;
        for (; packed < min(v.H, first + v.K); packed++)
          put_row<T, A>(v, p, x, pre, n, packed, in);
        for (Int c = p.c0; c < p.c1; c += L) {
          const Int left = v.C - c, vec = (c - p.c0) / L;
          T* to = y + (n * v.OH + oh) * v.OW * v.C + c;
          Vec<T> sum = load(&sums[2 * vec * L], L), squares = load(&sums[(2 * vec + 1) * L], L);
          tiles(v.OW, [&](Int j, auto tile) {
            constexpr int TILE = decltype(tile)::value;
            Vec<T> out[TILE] = {};
            for (Int kh = max(Int(0), -first); kh < min(v.K, v.H - first); kh++) {
              const T* row = in.row(vec, first + kh) + j * v.S * L;
              const T* columns = &weight[(vec * v.K * v.K + kh * v.K) * L];
              if (v.S == 1) taps<T, TILE>(out, row, 1, columns, v.K, 1, 1);
              else taps<T, TILE>(out, row, v.S, columns, v.K, 1, 1);
            }
            if (n == p.n0 && oh == 0 && j == 0) {  // near the mean, so that squares keep digits
              store(&middle[vec * L], out[0], L);
              for (Int i = 0; i < min(L, left); i++) moments.shift[p.g * v.C + c + i] = out[0][i];
            }
            const Vec<T> shift = load(&middle[vec * L], L);
            Vec<T> own{}, own_squares{};
#pragma GCC unroll 8
            for (int i = 0; i < TILE; i++) {
              __builtin_prefetch(to + (v.OW + j + i) * v.C, 1, 2);
              store(to + (j + i) * v.C, out[i], left);
              const Vec<T> off = out[i] - shift;
              own += off;
              own_squares += off * off;
            }
            sum += own;
            squares += own_squares;
          });
          store(&sums[2 * vec * L], sum, L);
          store(&sums[(2 * vec + 1) * L], squares, L);
        }
      }
      for (Int c = p.c0; c < p.c1; c++)
        for (Int k = 0; k < 2; k++) {
          T& some = sums[(2 * ((c - p.c0) / L) + k) * L + (c - p.c0) % L];
          moments.sums[(2 * p.g + k) * v.C + c] += some;
          some = 0;
        }
    }
  });
  moments.merge(eps, mean, var, rstd);
}

// sums[kw] += the sum over a row of dy * x.
template <class T, int K>
inline void row_weights(const T* in, Int step, const T* dy, Int n, T* sums) {
  constexpr Int L = Lanes<T>::L;
  Vec<T> sum[K];
#pragma GCC unroll 8
  for (int k = 0; k < K; k++) sum[k] = load(sums + k * L, L);
  for (Int i = 0; i < n; i++) {
    const Vec<T> d = load(dy + i * L, L);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) sum[k] += d * load(in + (i * step + k) * L, L);
  }
#pragma GCC unroll 8
  for (int k = 0; k < K; k++) store(sums + k * L, sum[k], L);
}

template <class T, int A>
void depthwise_backward(const Conv& v, const T* dz, const T* gate, const T* lift, const T* y,
                        const Affine<T>& post, const Back<T>& back, const T* x,
                        const Affine<T>* pre, const T* w, Int threads, T* dx, T* dw, T* sum,
                        T* sum_x) {
  constexpr Int L = Lanes<T>::L;
  const Int groups = Part::groups_of(v, threads), KK = v.K * v.K;
  vector<double> dws(groups * KK * v.C), sums(groups * 2 * v.C);
  parallel(Part::parts(v, threads, L), [&](Int t) {
    const Part p(v, threads, t, L);
    const vector<T> weight = by_vectors(v, p, w);
    const Int vectors = (p.c1 - p.c0 + L - 1) / L;
    Ring<T> in(v.K, v.wide(), v.left, vectors), dy(v.K, v.wide_out(), v.before(), vectors);
    vector<T> some_dw(vectors * KK * L), some(2 * vectors * L);

    const auto put_gradient = [&](Int n, Int oh) {  // of what the convolution gives
      for (Int c = p.c0; c < p.c1; c += L) {
        const Int left = v.C - c, at = (n * v.OH + oh) * v.OW * v.C + c;
        const Vec<T> a = load(&post.scale[c], left), b = load(&post.shift[c], left);
        const Vec<T> e = load(&back.slant[c], left), f = load(&back.lift[c], left);
        const Vec<T> times = gate ? load(gate + n * v.C + c, left) : Vec<T>{} + T(1);
        const Vec<T> plus = gate ? load(lift + n * v.C + c, left) : Vec<T>{};
        T* to = dy.inside((c - p.c0) / L, oh);
        for (Int i = 0; i < v.OW; i++) {
          __builtin_prefetch(dz + at + (v.OW + i) * v.C, 0, 2);
          __builtin_prefetch(y + at + (v.OW + i) * v.C, 0, 2);
          const Vec<T> d = load(dz + at + i * v.C, left) * times + plus;
          const Vec<T> u = load(y + at + i * v.C, left);
          store(to + i * L, slope<T, A>(d, u * a + b) * a + u * e + f, L);
        }
      }
    };
    const auto weights = [&](Int oh) {
      const Int first = oh * v.S - v.top;
      for (Int vec = 0; vec < vectors; vec++)
        for (Int kh = max(Int(0), -first); kh < min(v.K, v.H - first); kh++) {
          const T *row = in.row(vec, first + kh), *d = dy.inside(vec, oh);
          T* to = &some_dw[(vec * KK + kh * v.K) * L];
          if (v.K == 3) row_weights<T, 3>(row, v.S, d, v.OW, to);
          else if (v.K == 5) row_weights<T, 5>(row, v.S, d, v.OW, to);
          else row_weights<T, 7>(row, v.S, d, v.OW, to);
        }
    };
    const auto input = [&](Int n, Int h) {
      for (Int c = p.c0; c < p.c1; c += L) {
        const Int left = v.C - c, vec = (c - p.c0) / L;
        Vec<T> scale{}, shift{}, mean{};
        if (pre) {
          scale = load(&pre->scale[c], left), shift = load(&pre->shift[c], left);
          mean = load(&pre->mean[c], left);
        }
        Vec<T> total = load(&some[2 * vec * L], L), total_x = load(&some[(2 * vec + 1) * L], L);
        for (Int b = 0; b < min(v.S, v.W); b++) {  // columns that meet the same kernel columns
          const Int kw = (b + v.left) % v.S, count = (v.K - kw + v.S - 1) / v.S;
          const Int ow = (b + v.left - kw) / v.S + v.before();
          tiles((v.W - b + v.S - 1) / v.S, [&](Int j, auto tile) {
            constexpr int TILE = decltype(tile)::value;
            Vec<T> out[TILE] = {};
            for (Int kh = (h + v.top) % v.S; kh < v.K && kh <= h + v.top; kh += v.S) {
              const Int oh = (h + v.top - kh) / v.S;
              if (oh >= v.OH) continue;
              const T* columns = &weight[(vec * KK + kh * v.K + kw) * L];
              taps<T, TILE>(out, dy.row(vec, oh) + (ow + j) * L, 1, columns, count, v.S, -1);
            }
            Vec<T> own{}, own_x{};
            const Int start = ((n * v.H + h) * v.W + b + j * v.S) * v.C + c;
#pragma GCC unroll 8
            for (int i = 0; i < TILE; i++) {
              const Int at = start + i * v.S * v.C;
              Vec<T> d = out[i];
              __builtin_prefetch(dx + at + v.W * v.C, 1, 2);
              if (pre) {
                const Vec<T> u = load(x + at, left);
                d = slope<T, A>(d, u * scale + shift);
                own += d;
                own_x += d * (u - mean);
              }
              store(dx + at, d, left);
            }
            total += own;
            total_x += own_x;
          });
        }
        store(&some[2 * vec * L], total, L);
        store(&some[(2 * vec + 1) * L], total_x, L);
      }
    };

    for (Int n = p.n0; n < p.n1; n++) {
      Int packed = 0, done = 0;
      for (Int oh = 0; oh < v.OH; oh++) {
        for (; packed < min(v.H, oh * v.S - v.top + v.K); packed++)
          put_row<T, A>(v, p, x, pre, n, packed, in);
        put_gradient(n, oh);
        weights(oh);
        const Int ready = oh + 1 == v.OH ? v.H : min(v.H, (oh + 1) * v.S - v.top);
        for (; done < ready; done++) input(n, done);
      }
      for (Int c = p.c0; c < p.c1; c++) {
        const Int vec = (c - p.c0) / L, i = (c - p.c0) % L;
        for (Int k = 0; k < KK; k++) dws[(p.g * KK + k) * v.C + c] += some_dw[(vec * KK + k) * L + i];
        for (Int k = 0; k < 2; k++) sums[(2 * p.g + k) * v.C + c] += some[(2 * vec + k) * L + i];
      }
      std::fill(some_dw.begin(), some_dw.end(), T(0));
      std::fill(some.begin(), some.end(), T(0));
    }
  });
  add_parts(dws, groups, KK * v.C, dw);
  if (pre) {
    vector<T> both(2 * v.C);
    add_parts(sums, groups, 2 * v.C, &both[0]);
    std::copy(both.begin(), both.begin() + v.C, sum);
    std::copy(both.begin() + v.C, both.end(), sum_x);
  }
}

// --- what is exported, once for float and once for double

template <class T>
void moments(const T* x, Int P, Int C, double eps, T* mean, T* var, T* rstd, Int threads) {
  const Int parts = max(Int(1), min(threads, P / 64));
  Moments found(parts, C);
  parallel(parts, [&](Int t) {
    const Int r0 = P * t / parts, r1 = P * (t + 1) / parts;
    vector<T> first(x + r0 * C, x + (r0 + 1) * C);
    found.rows[t] = r1 - r0;
    for (Int c = 0; c < C; c++) found.shift[t * C + c] = first[c];
    gather<T, 2>(r0, r1, C, &found.sums[2 * t * C], [&](Int r, Int c, Int n, Vec<T>* sum) {
      const Vec<T> off = load(x + r * C + c, n) - load(&first[c], n);
      sum[0] += off;
      sum[1] += off * off;
    });
  });
  found.merge(eps, mean, var, rstd);
}

template <class T>
void apply(const T* x, const T* other, const T* gate, Int HW, Int P, Int C, const T* mean,
           const T* rstd, const T* weight, const T* bias, Int activation, T* out, Int threads) {
  const Affine<T> a(C, mean, rstd, weight, bias);
  with_act(activation, [&](auto kind) {
    constexpr int A = decltype(kind)::value;
    parallel(threads, [&](Int t) {
      for (Int r = P * t / threads; r < P * (t + 1) / threads; r++) {
        const T* gates = gate ? gate + r / HW * C : nullptr;
        for (Int c = 0; c < C; c += Lanes<T>::L) {
          const Int n = C - c, i = r * C + c;
          Vec<T> u = act<T, A>(load(x + i, n) * load(&a.scale[c], n) + load(&a.shift[c], n));
          if (gates) u *= load(gates + c, n);
          if (other) u += load(other + i, n);
          store(out + i, u, n);
        }
      }
    });
  });
}

template <class T>
void backward_sums(const T* g, const T* x, Int P, Int C, const T* mean, const T* rstd,
                   const T* weight, const T* bias, Int activation, T* sums, Int threads) {
  const Affine<T> a(C, mean, rstd, weight, bias);
  const Int parts = max(Int(1), min(threads, P / 64));
  vector<double> found(parts * 2 * C);
  with_act(activation, [&](auto kind) {
    constexpr int A = decltype(kind)::value;
    parallel(parts, [&](Int t) {
      gather<T, 2>(P * t / parts, P * (t + 1) / parts, C, &found[2 * t * C],
                   [&](Int r, Int c, Int n, Vec<T>* sum) {
                     const Vec<T> v = load(x + r * C + c, n);
                     const Vec<T> u = v * load(&a.scale[c], n) + load(&a.shift[c], n);
                     const Vec<T> d = slope<T, A>(load(g + r * C + c, n), u);
                     sum[0] += d;
                     sum[1] += d * (v - load(&a.mean[c], n));
                   });
    });
  });
  add_parts(found, parts, 2 * C, sums);
}

template <class T>
void backward_input(const T* g, const T* x, Int P, Int C, const T* mean, const T* rstd,
                    const T* weight, const T* bias, Int activation, const T* sum, const T* sum_x,
                    T* out, Int threads) {
  const Affine<T> a(C, mean, rstd, weight, bias);
  const Back<T> back(C, P, a, rstd, sum, sum_x);
  with_act(activation, [&](auto kind) {
    constexpr int A = decltype(kind)::value;
    parallel(threads, [&](Int t) {
      for (Int r = P * t / threads; r < P * (t + 1) / threads; r++)
        for (Int c = 0; c < C; c += Lanes<T>::L) {
          const Int n = C - c, i = r * C + c;
          const Vec<T> v = load(x + i, n), scale = load(&a.scale[c], n);
          const Vec<T> d = slope<T, A>(load(g + i, n), v * scale + load(&a.shift[c], n));
          store(out + i, d * scale + v * load(&back.slant[c], n) + load(&back.lift[c], n), n);
        }
    });
  });
}

// Means over each image of what `apply` gives: (N, C).
template <class T>
void pool(const T* x, Int N, Int HW, Int C, const T* mean, const T* rstd, const T* weight,
          const T* bias, Int activation, T* out, Int threads) {
  const Affine<T> a(C, mean, rstd, weight, bias);
  with_act(activation, [&](auto kind) {
    constexpr int A = decltype(kind)::value;
    parallel(min(threads, N), [&](Int t) {
      const Int parts = min(threads, N);
      for (Int m = N * t / parts; m < N * (t + 1) / parts; m++) {
        vector<double> sums(C);
        gather<T, 1>(m * HW, (m + 1) * HW, C, &sums[0], [&](Int r, Int c, Int n, Vec<T>* sum) {
          sum[0] += act<T, A>(load(x + r * C + c, n) * load(&a.scale[c], n) + load(&a.shift[c], n));
        });
        for (Int c = 0; c < C; c++) out[m * C + c] = T(sums[c] / HW);
      }
    });
  });
}

// Of each image, (5, N, C): sums of d, s, d * (x - mean), s * (x - mean), g * z, where z is the
// activation, s its slope and d = g * s: all that a gate on z needs before its gradient is known.
template <class T>
void gate_sums(const T* g, const T* x, Int N, Int HW, Int C, const T* mean, const T* rstd,
               const T* weight, const T* bias, Int activation, T* out, Int threads) {
  const Affine<T> a(C, mean, rstd, weight, bias);
  with_act(activation, [&](auto kind) {
    constexpr int A = decltype(kind)::value;
    parallel(min(threads, N), [&](Int t) {
      const Int parts = min(threads, N);
      for (Int m = N * t / parts; m < N * (t + 1) / parts; m++) {
        vector<double> sums(5 * C);
        gather<T, 5>(m * HW, (m + 1) * HW, C, &sums[0], [&](Int r, Int c, Int n, Vec<T>* sum) {
          const Vec<T> v = load(x + r * C + c, n), off = v - load(&a.mean[c], n);
          const Vec<T> u = v * load(&a.scale[c], n) + load(&a.shift[c], n);
          const Vec<T> s = slope<T, A>(Vec<T>{} + T(1), u), own = load(g + r * C + c, n);
          const Vec<T> d = own * s;
          sum[0] += d;
          sum[1] += s;
          sum[2] += d * off;
          sum[3] += s * off;
          sum[4] += own * act<T, A>(u);
        });
        for (Int k = 0; k < 5; k++)
          for (Int c = 0; c < C; c++) out[(k * N + m) * C + c] = T(sums[k * C + c]);
      }
    });
  });
}

// `conv` is N, C, H, W, K, S, top, left, OH, OW; `pre` is null where there is no norm before.
template <class T>
void convolve(const Int* conv, const T* x, const T* const* pre, Int activation, const T* w, T* y,
              double eps, T* mean, T* var, T* rstd, Int threads) {
  const Conv v = *(const Conv*)conv;
  const vector<Affine<T>> norm(pre ? 1 : 0, Affine<T>(pre ? v.C : 0, pre ? pre[0] : x,
                               pre ? pre[1] : x, pre ? pre[2] : x, pre ? pre[3] : x));
  with_act(activation, [&](auto kind) {
    constexpr int A = decltype(kind)::value;
    depthwise<T, A>(v, x, pre ? &norm[0] : nullptr, w, y, threads, eps, mean, var, rstd);
  });
}

template <class T>
void convolve_backward(const Int* conv, const T* dz, const T* gate, const T* lift, const T* y,
                       const T* const* post, const T* sum, const T* sum_x, const T* x,
                       const T* const* pre, Int activation, const T* w, T* dx, T* dw, T* pre_sum,
                       T* pre_sum_x, Int threads) {
  const Conv v = *(const Conv*)conv;
  const Affine<T> after(v.C, post[0], post[1], post[2], post[3]);
  const Back<T> back(v.C, v.N * v.OH * v.OW, after, post[1], sum, sum_x);
  const vector<Affine<T>> norm(pre ? 1 : 0, Affine<T>(pre ? v.C : 0, pre ? pre[0] : x,
                               pre ? pre[1] : x, pre ? pre[2] : x, pre ? pre[3] : x));
  with_act(activation, [&](auto kind) {
    constexpr int A = decltype(kind)::value;
    depthwise_backward<T, A>(v, dz, gate, lift, y, after, back, x, pre ? &norm[0] : nullptr, w,
                             threads, dx, dw, pre_sum, pre_sum_x);
  });
}

}  // namespace

#define EXPORT(T, S)                                                                              \
  extern "C" void moments_##S(const T* x, Int P, Int C, double eps, T* m, T* v, T* r, Int t) {    \
    moments<T>(x, P, C, eps, m, v, r, t);                                                         \
  }                                                                                               \
  extern "C" void apply_##S(const T* x, const T* other, const T* gate, Int HW, Int P, Int C,      \
                            const T* m, const T* r, const T* w, const T* b, Int a, T* out,        \
                            Int t) {                                                              \
    apply<T>(x, other, gate, HW, P, C, m, r, w, b, a, out, t);                                    \
  }                                                                                               \
  extern "C" void backward_sums_##S(const T* g, const T* x, Int P, Int C, const T* m, const T* r, \
                                    const T* w, const T* b, Int a, T* sums, Int t) {              \
    backward_sums<T>(g, x, P, C, m, r, w, b, a, sums, t);                                         \
  }                                                                                               \
  extern "C" void backward_input_##S(const T* g, const T* x, Int P, Int C, const T* m,            \
                                     const T* r, const T* w, const T* b, Int a, const T* s,       \
                                     const T* sx, T* out, Int t) {                                \
    backward_input<T>(g, x, P, C, m, r, w, b, a, s, sx, out, t);                                  \
  }                                                                                               \
  extern "C" void pool_##S(const T* x, Int N, Int HW, Int C, const T* m, const T* r, const T* w,  \
                           const T* b, Int a, T* out, Int t) {                                    \
    pool<T>(x, N, HW, C, m, r, w, b, a, out, t);                                                  \
  }                                                                                               \
  extern "C" void gate_sums_##S(const T* g, const T* x, Int N, Int HW, Int C, const T* m,         \
                                const T* r, const T* w, const T* b, Int a, T* out, Int t) {       \
    gate_sums<T>(g, x, N, HW, C, m, r, w, b, a, out, t);                                          \
  }                                                                                               \
  extern "C" void convolve_##S(const Int* conv, const T* x, const T* const* pre, Int a,           \
                               const T* w, T* y, double eps, T* m, T* v, T* r, Int t) {           \
    convolve<T>(conv, x, pre, a, w, y, eps, m, v, r, t);                                          \
  }                                                                                               \
  extern "C" void convolve_backward_##S(                                                          \
      const Int* conv, const T* dz, const T* gate, const T* lift, const T* y,                     \
      const T* const* post, const T* sum, const T* sum_x, const T* x, const T* const* pre, Int a, \
      const T* w, T* dx, T* dw, T* ps, T* psx, Int t) {                                           \
    convolve_backward<T>(conv, dz, gate, lift, y, post, sum, sum_x, x, pre, a, w, dx, dw, ps,     \
                         psx, t);                                                                 \
  }

EXPORT(float, float)
EXPORT(double, double)
