// A plan: the kernel calls of a step, recorded once and then run again by one call of gollm_run_plan. And a measurement of
// what a plan of that step would take, without running it.
//
// The calls hold addresses, so the memory behind them has to stay. What a step allocates while it is recorded comes from a
// pool of the plan's own: arrays that Python lets go of are used again by later calls, as ever, but no block leaves the pool
// as long as the plan lives. Of all other arrays (weights, moments, tokens) the plan keeps a reference. Between two runs the
// contents of the pool's free blocks matter to nobody, so that the memory can be lent to other work on the same thread.
#include "pool.h"

#include <pybind11/typing.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <string>

namespace {

class Plan;
class Measure;
struct Use { // of a thread, by one of the two
    Plan *plan = nullptr;
    bool recording = false; // else lending
    Measure *measure = nullptr;
};
thread_local Use current;

// Raises GollmError where this thread records, lends or measures, which `what` cannot be done in.
void refuse_inside(const char *what) {
    const std::string cannot(what);
    if (current.plan) raise_error("GollmError", cannot + " while one is recorded or lends its memory");
    if (current.measure) raise_error("GollmError", cannot + " while a step is measured");
}

// What a plan is used for: by any number of runs at once, or by one thread for something that a run must not meet.
class Usage {
  public:
    bool start_run() {
        int now = users.load();
        while (now >= 0 && !users.compare_exchange_weak(now, now + 1)) {
        }
        return now >= 0;
    }
    void end_run() { users--; }
    bool start_alone() {
        int none = 0;
        return users.compare_exchange_strong(none, ALONE);
    }
    void end_alone() { users = 0; }

  private:
    static constexpr int ALONE = -1;
    std::atomic<int> users{0}; // how many run it
};

class Plan : public Made {
  public:
    explicit Plan(Device &device = cpu_device()) : device_(device) {}
    ~Plan() {
        device_.backend->forget_plan(&plan_);
        pool_->release();
    } // what lives on in the pool, such as gradients, keeps the pool but not its free blocks
    void begin() { use(true); }
    void lend() { use(false); }

    void end() {
        if (current.plan != this) raise_error("GollmError", "this plan is not being recorded, nor lending, here");
        if (current.recording) prepare();
        current = {};
        usage_.end_alone();
        py::cast(this).dec_ref();
    }

    void append(const gollm_kernel *kernel, const int64_t *words, int n_words, const Arrays &arrays) {
        words_.emplace_back(words, words + n_words);
        calls_.push_back({kernel, words_.back().data(), joins_span(kernel, arrays)});
        for (const Array &array : arrays)
            if (array.object && !pool_->owns(array.data)) keep(array.object);
    }

    void clear() {
        start_alone();
        forget();
        usage_.end_alone();
    }

    void run(int64_t times) {
        if (times < 1 || times > 1 << 30)
            raise_error("GollmError", "a plan cannot run " + std::to_string(times) + " times");
        refuse_inside("a plan cannot run");
        if (pool_->lent()) raise_error("GollmError", "a plan cannot run while memory that it has lent is in use");
        if (!usage_.start_run()) raise_error("GollmError", IN_USE);
        const Running running(&usage_);
        int64_t failed;
        int status;
        {
            WithoutGil released;
            status = device_.backend->run_plan(&plan_, times, &failed);
        }
        if (status != GOLLM_OK) fail(status, failed);
    }

    py::typing::List<py::typing::List<py::str>> spans() {
        const bool own = current.plan == this;
        if (!own && !usage_.start_run()) raise_error("GollmError", IN_USE);
        const Running running(own ? nullptr : &usage_);
        py::typing::List<py::typing::List<py::str>> spans;
        for (const gollm_call &call : calls_) {
            if (!call.overlaps) spans.append(py::list());
            py::list(spans[spans.size() - 1]).append(call.kernel->name);
        }
        return spans;
    }

    Pool *pool() const { return pool_.get(); }
    const Device &device() const { return device_; }

  private:
    static constexpr const char *IN_USE =
        "this plan is in use: it runs, is recorded or lends its memory; wait for the end of that";

    struct Running { // nullptr: nothing to end
        Usage *usage;
        explicit Running(Usage *of) : usage(of) {}
        Running(const Running &) = delete;
        ~Running() {
            if (usage) usage->end_run();
        }
    };

    // Whether a call may overlap those since the last barrier: none of them reads or writes what another writes, and at most
    // one has a workspace. Else it begins the next span.
    bool joins_span(const gollm_kernel *kernel, const Arrays &arrays) {
        bool joins = !calls_.empty() && !(kernel->workspace && span_has_workspace_);
        for (const Array &a : arrays)
            for (const Array &b : span_) joins &= !(a.written || b.written) || !a.meets(b);
        if (!joins) span_.clear(), span_has_workspace_ = false;
        for (const Array &array : arrays) span_.push_back({{}, array.data, array.bytes, array.written});
        span_has_workspace_ |= kernel->workspace != nullptr;
        return joins;
    }

    void prepare() {
        plan_ = {calls_.data(), (int64_t)calls_.size(), 0, 0, nullptr};
        int64_t failed;
        const int status = device_.backend->prepare_plan(&plan_, &failed);
        if (status != GOLLM_OK) fail(status, failed);
    }

    [[noreturn]] void fail(int status, int64_t failed) const {
        const size_t last = calls_.empty() ? 0 : calls_.size() - 1;
        check_status(device_, status, calls_.empty() ? "a plan" : calls_[std::min((size_t)failed, last)].kernel->name);
        throw std::logic_error("a plan failed without a status");
    }

    void start_alone() {
        if (!usage_.start_alone()) raise_error("GollmError", IN_USE);
    }

    // NumPy never frees the memory of an array with a weak reference, not even by resize(..., refcheck=False).
    void keep(const py::object &array) {
        kept_.push_back(array);
        for (py::object owner = array; py::isinstance<py::array>(owner); owner = owner.attr("base"))
            kept_.push_back(py::weakref(owner));
    }

    void forget() {
        device_.backend->forget_plan(&plan_);
        plan_ = {};
        calls_.clear();
        words_.clear();
        span_.clear();
        span_has_workspace_ = false;
        kept_.clear();
        pool_->release();
    }

    void use(bool recording) { // keeps the plan alive until end()
        refuse_inside("a plan cannot be used");
        start_alone();
        if (recording) forget();
        py::cast(this).inc_ref();
        current = {this, recording, nullptr};
    }

    Device &device_;
    std::shared_ptr<Pool> pool_ = std::make_shared<Pool>(device_);
    gollm_plan plan_{};
    std::vector<gollm_call> calls_;
    std::deque<std::vector<int64_t>> words_; // the calls' arguments
    std::vector<py::object> kept_;
    Arrays span_; // what the calls since the last barrier read and write, without references
    bool span_has_workspace_ = false;
    Usage usage_;
};

// What a plan of a step takes, without running it: between begin() and end(), this thread's arrays lie in address space that
// takes no memory as long as nobody writes to it, and its kernel calls are checked but not run.
class Measure : public Made {
  public:
    explicit Measure(Device &device = cpu_device()) : device_(device) {}
    ~Measure() { pool_->release(); }

    void begin() { // keeps it alive until end()
        refuse_inside("a step cannot be measured");
        if (in_use_.exchange(true)) raise_error("GollmError", "this measurement is in use by another thread");
        pool_->release();
        pool_ = std::make_shared<Pool>(device_, Pool::Memory::Imaginary);
        workspace_bytes_ = 0;
        py::cast(this).inc_ref();
        current = {nullptr, false, this};
    }

    void end() {
        if (current.measure != this) raise_error("GollmError", "no step is being measured by this here");
        current = {};
        in_use_ = false;
        py::cast(this).dec_ref();
    }

    void note(const gollm_kernel *kernel, const int64_t *words) {
        const int64_t bytes = kernel->workspace ? kernel->workspace(words, gollm_num_threads()) : 0;
        if (bytes > workspace_bytes_) workspace_bytes_ = bytes;
    }

    size_t bytes_held() const { return pool_->held(); }
    int64_t workspace_bytes() const { return workspace_bytes_; }
    Pool *pool() const { return pool_.get(); }
    const Device &device() const { return device_; }

  private:
    Device &device_;
    std::shared_ptr<Pool> pool_ = std::make_shared<Pool>(device_, Pool::Memory::Imaginary);
    std::atomic<int64_t> workspace_bytes_{0};
    std::atomic<bool> in_use_{false};
};

} // namespace

PoolInUse pool_in_use(const Device &device) {
    if (current.measure && &current.measure->device() == &device) return {current.measure->pool(), false, true};
    if (current.plan && &current.plan->device() == &device) return {current.plan->pool(), !current.recording, false};
    return {nullptr, false, false};
}

bool measure_call(const Device &device, const gollm_kernel *kernel, const int64_t *words) {
    const bool measuring = current.measure && &current.measure->device() == &device;
    if (measuring) current.measure->note(kernel, words);
    return measuring;
}

void record_call(const Device &device, const gollm_kernel *kernel, const int64_t *words, int n_words,
                 const Arrays &arrays) {
    if (current.plan && current.recording && &current.plan->device() == &device)
        current.plan->append(kernel, words, n_words, arrays);
}

void bind_plan_classes(py::module_ &m) {
    py::class_<Plan>(m, "Plan")
        .def(made<Plan>())
        .def("begin", &Plan::begin, "Forgets what was recorded and records this thread's kernel calls until end().")
        .def("lend", &Plan::lend, "Gives this thread's arrays the plan's memory until end().")
        .def("end", &Plan::end)
        .def("clear", &Plan::clear, "Forgets what was recorded and frees the memory.")
        .def("run", &Plan::run, py::arg("times") = 1,
             "Runs the recorded calls, `times` times; raises KernelError as the one that failed would.")
        .def("spans", &Plan::spans,
             "The names of the recorded calls' kernels, in lists of those that no barrier separates.");
    py::class_<Measure>(m, "Measure")
        .def(made<Measure>())
        .def("begin", &Measure::begin,
             "Until end(), this thread's kernel calls are checked but not run, and its arrays take no memory.")
        .def("end", &Measure::end)
        .def_property_readonly("bytes_held", &Measure::bytes_held,
                               "Bytes that the pool of a plan of the same step holds.")
        .def_property_readonly("workspace_bytes", &Measure::workspace_bytes,
                               "Bytes of the largest workspace of a call, with the number of threads at that time.");
}

void bind_plan(py::module_ &m, Device &device) {
    if (!device.is_cpu()) { // whose own are the classes themselves
        m.def("Plan", [&device] { return std::unique_ptr<Plan>(::new Plan(device)); });
        m.def("Measure", [&device] { return std::unique_ptr<Measure>(::new Measure(device)); });
    }
    m.def(
        "plan_in_use", [] { return current.measure || current.plan; },
        "Whether a plan records or lends its memory in this thread, or a step is measured: no other plan runs then.");
    m.def(
        "plan_is_recording", [] { return current.measure || (current.plan && current.recording); },
        "Whether this thread's kernel calls are recorded, or measured.");
}
